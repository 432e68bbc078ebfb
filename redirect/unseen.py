"""How many packets may have passed a captured interface while something of ours was not there.

The interface counts all packets, our programs only theirs; so what an interface has counted since the last proof
that saw both programs and its entry in their place is the most that can have passed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redirect.observe import POD_PROGRAMS, Observed
from redirect.rt_rows import PacketCount


@dataclass(frozen=True, slots=True)
class _Proof:
    count: PacketCount
    at_s: float


@dataclass(frozen=True, slots=True)
class Passed:
    """The most that can have passed: packets that pods sent, and that were sent to them."""

    outbound: int = 0
    inbound: int = 0


class Unseen:
    """The last proof of each captured interface. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._proven: dict[int, _Proof] = {}
        self._lapsed: set[int] = set()
        self.total = Passed()
        """Of all interfaces that were not guarded for a while, and are again."""

    def proven(
        self, ifindexes: Iterable[int], observed: Observed, counts: Mapping[int, PacketCount], now_s: float
    ) -> None:
        """What a proof saw of the interfaces that should be captured, when they had counted so much."""
        kept = {ifindex: self._proven[ifindex] for ifindex in ifindexes if ifindex in self._proven}
        for ifindex in ifindexes:
            if not _is_guarded(ifindex, observed):
                self._lapsed.add(ifindex)
            elif ifindex in counts:
                if ifindex in self._lapsed & kept.keys():
                    self._count(ifindex, counts)
                kept[ifindex] = _Proof(counts[ifindex], now_s)
                self._lapsed.discard(ifindex)
        self._proven = kept
        self._lapsed &= kept.keys()

    def lapsed(self, ifindexes: Iterable[int], observed: Observed) -> tuple[int, ...]:
        """Interfaces that a proof saw guarded, and whose programs or entry are gone, or behind those of others."""
        found = tuple(
            ifindex
            for ifindex in ifindexes
            if ifindex in self._proven and ifindex in observed.links and not _is_guarded(ifindex, observed)
        )
        self._lapsed.update(found)
        return found

    def report(self, ifindex: int, name: str, counts: Mapping[int, PacketCount], now_s: float) -> str:
        """One line for an interface that had lapsed and is guarded again; it counts in `total`, once."""
        since_s = self._proven[ifindex].at_s
        passed = self._count(ifindex, counts)
        self._proven[ifindex] = _Proof(counts.get(ifindex, PacketCount()), now_s)
        self._lapsed.discard(ifindex)
        return (
            f"{name} (interface {ifindex}) was not guarded, for at most {now_s - since_s:.1f} s: no more than "
            f"{passed.outbound} {'packet' if passed.outbound == 1 else 'packets'} of its pod and {passed.inbound} "
            "to it passed"
        )

    def _count(self, ifindex: int, counts: Mapping[int, PacketCount]) -> Passed:
        """Adds what an interface has counted since its last proof to the total."""
        before, count = self._proven[ifindex].count, counts.get(ifindex, PacketCount())
        # An interface made anew under the same number has counted less.
        passed = Passed(max(0, count.received - before.received), max(0, count.sent - before.sent))
        self.total = Passed(self.total.outbound + passed.outbound, self.total.inbound + passed.inbound)
        return passed


def _is_guarded(ifindex: int, observed: Observed) -> bool:
    places = [(ifindex, program) for program in POD_PROGRAMS]
    return ifindex in observed.ifaces and all(
        place in observed.attached and place not in observed.behind for place in places
    )
