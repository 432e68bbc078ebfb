"""How far the capture of each wished pod is: what whoever wished for it, or looks after it, tells others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.enroll.trouble import Trouble
from agent.enroll.wish import PodKey, Wish


class Captured(Protocol):
    """What is captured now, and for whom."""

    @property
    def wishes(self) -> Mapping[PodKey, Wish]: ...

    @property
    def pods(self) -> Mapping[PodKey, object]: ...

    @property
    def owners(self) -> Mapping[int, PodKey]: ...

    @property
    def troubles(self) -> Collection[Trouble]: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """`uid`: of the pod that the wish is for, empty where it is for whichever has that name.

    `is_captured`: nothing passes by the mesh any more; `trouble`: what keeps it from being served, with the remedy.
    """

    uid: str = ""
    is_captured: bool = False
    is_served: bool = False
    trouble: str = ""

    def is_of(self, uid: str) -> bool:
        return self.uid in ("", uid)


class ProgressOfAll:
    """Of every pod that is wished for, made anew when something of it has changed: it is asked for far more often."""

    def __init__(self, captures: Captured) -> None:
        self._captures = captures
        self._made_of: tuple[object, ...] = ()
        self._made: Mapping[PodKey, Progress] = {}

    def __call__(self) -> Mapping[PodKey, Progress]:
        captures = self._captures
        wishes, pods = captures.wishes, captures.pods
        made_of = wishes, pods, captures.owners, tuple(captures.troubles)
        # Both are replaced when they change, never changed.
        is_so_still = bool(self._made_of) and self._made_of[0] is wishes and self._made_of[1] is pods
        if not is_so_still or self._made_of[2:] != made_of[2:]:
            self._made, self._made_of = progress(captures), made_of
        return self._made


def progress(captures: Captured) -> dict[PodKey, Progress]:
    """Of every pod that is wished for."""
    captured = frozenset(captures.owners.values())
    troubles: dict[PodKey | None, str] = {}
    for trouble in captures.troubles:
        text = f"{trouble.text}; {trouble.remedy}" if trouble.remedy else trouble.text
        troubles.setdefault(trouble.pod, text)
    return {
        key: Progress(wish.uid, key in captured, key in captures.pods, troubles.get(key, ""))
        for key, wish in captures.wishes.items()
    }
