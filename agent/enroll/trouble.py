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

    PROCESS = "process"
    """The process that it was named by has ended."""
    NAMESPACE = "namespace"
    """Nothing leads to its network namespace."""
    INTERFACE = "interface"
    """Its namespace has no interface that can be captured."""
    CAPTURE = "capture"
    """The kernel refused a step."""
    POD = "pod"
    """An interface is captured, but nobody knows whose it is."""
    WORKLOAD = "workload"
    """The control plane does not list the pod here."""
    ADDRESS = "address"
    """The control plane lists the pod with other addresses than it has."""
    CERTIFICATE = "certificate"
    """There is none for its identity yet."""
    RECORD = "record"
    """The wishes cannot be written down, so that an agent that starts anew would not know them, or were damaged."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """`text` does not name the pod. `pod` is None where nobody knows it, or where the whole node is meant.

    `since_s` is wall-clock time. `is_expected`: nothing is wrong, the control plane does not list the pod either.
    """

    missing: Missing
    text: str
    pod: PodKey | None = None
    ifname: str = ""
    remedy: str = ""
    since_s: float = 0.0
    is_expected: bool = False

    def __str__(self) -> str:
        whose = f"pod {self.pod}: " if self.pod is not None else ""
        return f"{whose}{self.text}; {self.remedy}" if self.remedy else f"{whose}{self.text}"


def dated(found: Iterable[Trouble], before: Iterable[Trouble], now_s: float) -> tuple[Trouble, ...]:
    """What was found, each since it was first found."""
    since = {_what(trouble): trouble.since_s for trouble in before}
    return tuple(replace(trouble, since_s=since.get(_what(trouble), now_s)) for trouble in found)


def _what(trouble: Trouble) -> tuple[Missing, PodKey | None, str]:
    return trouble.missing, trouble.pod, trouble.ifname
