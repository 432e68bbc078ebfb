"""Pods that somebody opened by `ztun bypass`: logged when it begins and when it ends, and counted while it lasts.

Nothing here ends one: the programs in the kernel do, by the clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from agent.telemetry import families
from agent.telemetry.metrics import Figures
from redirect.opened import Opened, row, which_words, words

log = logging.getLogger(__name__)

SCOPES = ("node", "pod")


class Openings:
    """Those of the last look. `wall` is seconds since the epoch: people read ends by it."""

    def __init__(self, figures: Figures, wall: Callable[[], float] = time.time) -> None:
        self._figures = figures
        self._wall = wall
        self._known: dict[int, Opened] = {}
        self._words: dict[int, str] = {}

    def seen(self, opened: Iterable[Opened]) -> None:
        """What the kernel has now."""
        now = {each.ifindex: each for each in opened}
        for number, each in now.items():
            if number not in self._known or self._known[number].opening != each.opening:
                self._words[number] = words(each, self._wall() + each.left_s)
                log.warning("bypass: %s", self._words[number])
        for number in self._known.keys() - now.keys():
            name = self._known[number].name
            log.warning(
                "bypass of %s is over: if it is captured still, what is new is so, and what began in clear is reset by "
                "its next packet",
                name,
            )
            del self._words[number]
        self._known = now
        for scope in SCOPES:
            lefts_s = [each.left_s for each in now.values() if each.scope == scope]
            self._figures.put(families.BYPASSES, scope, count=len(lefts_s))
            self._figures.put(families.BYPASS_LEFT, scope, count=round(max(lefts_s, default=0.0), 3))

    @property
    def problems(self) -> tuple[str, ...]:
        """One line each, the node first, with what ends it."""
        return tuple(
            f"bypass: {self._words[number]}; `ztun bypass {which_words(each)} --off` ends it"
            for number, each in self._known.items()
        )

    def rows(self) -> list[dict[str, object]]:
        """The same in fields; no pod: all of the node."""
        return [row(each) for each in self._known.values()]
