"""What was looked for in vain: for a short time the answer stays what it was, so that nobody asks or waits again."""

from __future__ import annotations

import time
from collections.abc import Callable

IN_VAIN_S = 5.0
KEPT = 4096


class Absent:
    """Names of resources. One per worker; `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        until_s = self._until_s.get(name)
        return until_s is not None and self._clock() < until_s

    def add(self, name: str) -> None:
        self._until_s.pop(name, None)
        while len(self._until_s) >= KEPT:
            # The oldest, as each holds for the same time.
            del self._until_s[next(iter(self._until_s))]
        self._until_s[name] = self._clock() + IN_VAIN_S
