"""What a look at the node finds: where wished pods are attached, and which interfaces were closed at first sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey
from agent.model.counted import counted
from redirect.errors import RedirectError
from redirect.place import Place


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was found of a wished pod: where it is attached (`place`), or what is missing, in words.

    `ends`: all interfaces of the node that lead into its namespace; `nsid`: the number that it has here, or had last.
    """

    place: Place | None = None
    ends: frozenset[int] = frozenset()
    missing: Missing | None = None
    text: str = ""
    nsid: int | None = None


@dataclass(frozen=True, slots=True)
class Closure:
    """An interface that was closed at first sight.

    `open_s`: how long packets could pass at most, from the news of it on; 0 when it was closed before it was up, None
    when nobody was there to hear of it. `packets`: how many had come by it until then.
    """

    pod: PodKey
    ifindex: int
    ifname: str
    open_s: float | None
    packets: int

    def __str__(self) -> str:
        what = f"{self.ifname} (interface {self.ifindex}) leads to pod {self.pod} and is closed"
        if self.open_s == 0:
            return f"{what}, before it was up"
        packets = f"{counted(self.packets, 'packet')} had come by it"
        if self.open_s is None:
            return f"{what}; it was open before this agent saw it, {packets}"
        return f"{what}; it was open for {self.open_s * 1000:.0f} ms at most, {packets}"


@dataclass(frozen=True, slots=True)
class Found:
    """The node at one moment. `present`: ifindex -> name; `own`: those that lead into the private namespaces.

    `is_partial`: there were more new pods than one look closes, and the rest is none of this.
    """

    sightings: Mapping[PodKey, Sighting]
    present: Mapping[int, str]
    closed: tuple[Closure, ...] = ()
    failures: tuple[RedirectError, ...] = ()
    own: frozenset[int] = frozenset()
    is_partial: bool = False
