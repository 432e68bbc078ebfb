"""Wishes: who wants which pod captured, and where to look for it. Plain values.

A wish is apart from what is captured: it says nothing about interfaces or addresses, and it stays when they go.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class PodKey:
    """Which pod, as people name it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class WantedBy(StrEnum):
    """Who asked for a pod to be captured."""

    COMMAND = "ztun enroll"


@dataclass(frozen=True, slots=True)
class Where:
    """How to find a pod: exactly one of the path of its namespace, a process in it, its interface on this node."""

    netns: str | None = None
    pid: int | None = None
    ifname: str | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.netns, self.pid, self.ifname)) != 1:
            raise ValueError("name the pod by exactly one of netns, pid and ifname")


@dataclass(frozen=True, slots=True)
class Wish:
    """That a pod be captured."""

    pod: PodKey
    where: Where
    wanted_by: WantedBy = WantedBy.COMMAND
