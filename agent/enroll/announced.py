"""Which pods the control plane has been told that peers reach by HBONE: told again when they are others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.enroll.wish import PodKey


class Announced:
    """`announce` tells it all of them."""

    def __init__(self, announce: Callable[[Iterable[PodKey]], None]) -> None:
        self._announce = announce
        self._last: frozenset[PodKey] | None = None

    def tell(self, reachable: frozenset[PodKey]) -> None:
        if reachable != self._last:
            self._last = reachable
            self._announce(sorted(reachable))
