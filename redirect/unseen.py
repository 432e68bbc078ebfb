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


class Unseen:
    """The last proof of each captured interface. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._proven: dict[int, _Proof] = {}

    def proven(
        self, ifindexes: Iterable[int], observed: Observed, counts: Mapping[int, PacketCount], now_s: float
    ) -> None:
        """What a proof saw of the interfaces that should be captured, when they had counted so much."""
        kept = {ifindex: self._proven[ifindex] for ifindex in ifindexes if ifindex in self._proven}
        for ifindex in ifindexes:
            if ifindex in counts and _is_guarded(ifindex, observed, observed.behind):
                kept[ifindex] = _Proof(counts[ifindex], now_s)
        self._proven = kept

    def lapsed(self, ifindexes: Iterable[int], observed: Observed) -> tuple[int, ...]:
        """Interfaces that a proof saw guarded, and whose programs or entry are gone. Order cannot be mended."""
        return tuple(
            ifindex
            for ifindex in ifindexes
            if ifindex in self._proven and ifindex in observed.links and not _is_guarded(ifindex, observed)
        )

    def report(self, ifindex: int, name: str, counts: Mapping[int, PacketCount], now_s: float) -> str:
        """One line for an interface that had lapsed and is guarded again."""
        proof, count = self._proven[ifindex], counts.get(ifindex, PacketCount())
        # An interface made anew under the same number has counted less.
        sent = max(0, count.received - proof.count.received)
        received = max(0, count.sent - proof.count.sent)
        return (
            f"{name} (interface {ifindex}) was not guarded, for at most {now_s - proof.at_s:.1f} s: no more than "
            f"{sent} packets of its pod and {received} to it passed"
        )


def _is_guarded(ifindex: int, observed: Observed, unless: frozenset[tuple[int, str]] = frozenset()) -> bool:
    places = {(ifindex, program) for program in POD_PROGRAMS}
    return ifindex in observed.ifaces and places <= observed.attached - unless
