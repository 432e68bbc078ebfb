"""The last things that happened to captured pods, for people who come later. Lines go to the log as well."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agent.enroll.wish import PodKey

log = logging.getLogger(__name__)

EVENTS = 100


@dataclass(frozen=True, slots=True)
class Event:
    """`at_s`: wall-clock time."""

    at_s: float
    pod: PodKey
    text: str


class History:
    """The newest events, oldest first."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._events: deque[Event] = deque(maxlen=EVENTS)

    def note(self, pod: PodKey, text: str, level: int = logging.INFO) -> None:
        """One line; it names the pod itself."""
        log.log(level, "%s", text)
        self._events.append(Event(self._wall(), pod, text))

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)
