"""What the kernel says again and again in the same words is read once: rows of lists and of maps. Pure.

All of it is still asked for each time, and compared byte by byte; only taking it apart is spared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Words(Generic[T]):
    """Rows by the kernel's own words for them: of hundreds most are told in the same ones every time.

    `read` makes one of its words. Remembered is twice what the longest list had, and `slack` more: lists of pods'
    namespaces are short, and the node's, which is listed between them, is long.
    """

    def __init__(self, read: Callable[[bytes], T], slack: int = 512) -> None:
        self._read, self._slack = read, slack
        self._longest = 0
        self._known: dict[bytes, T] = {}

    def rows(self, bodies: Sequence[bytes]) -> list[T]:
        known, found = self._known, []
        for body in bodies:
            if body not in known:
                known[body] = self._read(body)
            found.append(known[body])
        self._longest = max(self._longest, len(bodies))
        if len(known) > 2 * self._longest + self._slack:
            self._known = {body: known[body] for body in bodies}
        return found
