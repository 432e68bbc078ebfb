"""What keeps a pod from being served although it is wanted or captured: typed, with a remedy and since when.

Pure values; whoever shows them puts them into words by `str`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from agent.enroll.wish import PodKey


class Missing(StrEnum):
    """The first thing that a pod lacks."""

    POD = "pod"
    """It is captured, but nobody knows who it is."""
    WORKLOAD = "workload"
    """The control plane does not list it here."""
    ADDRESS = "address"
    """The control plane lists it without an address that it has."""
    CAPTURE = "capture"
    """The kernel refused a step."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """`pod` is None where it is not known, or where the whole node is meant; then `ifname` may say more.

    `since_s` is wall-clock time.
    """

    missing: Missing
    text: str
    pod: PodKey | None = None
    ifname: str = ""
    remedy: str = ""
    since_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


def dated(found: Iterable[Trouble], before: Iterable[Trouble], now_s: float) -> tuple[Trouble, ...]:
    """What was found, each since it was first found."""
    since = {_what(trouble): trouble.since_s for trouble in before}
    return tuple(replace(trouble, since_s=since.get(_what(trouble), now_s)) for trouble in found)


def _what(trouble: Trouble) -> tuple[Missing, PodKey | None, str]:
    return trouble.missing, trouble.pod, trouble.ifname
