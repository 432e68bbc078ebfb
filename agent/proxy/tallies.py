"""What became of the connections of each pod address in this worker, for the proofs of the control process.

Counters only grow, until the pod leaves; those of failed handshakes, for the metrics, are of no pod and stay. Who
meets an event counts it: the doors of the listeners, the pool, the inbound links. Nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum

from agent.identity.faults import Fault
from agent.model.address import IP
from agent.model.connection import Direction


class End(Enum):
    """Which end of an HBONE connection this worker is; the value is the label of metrics."""

    __hash__ = object.__hash__

    CLIENT = "client"
    SERVER = "server"


class PodTally:
    """What became of the connections of one pod address, in this worker.

    Strangers are whoever comes from an address of which the mesh expects no HBONE. `last_error` is for people, and
    never theirs.
    """

    __slots__ = (
        "accepted_inbound",
        "accepted_outbound",
        "handshakes_done",
        "handshakes_failed",
        "last_error",
        "strangers_failed",
        "tunnels_failed",
        "tunnels_made",
    )

    def __init__(self) -> None:
        self.accepted_outbound = 0
        self.accepted_inbound = 0
        self.tunnels_made = 0
        self.tunnels_failed = 0
        self.handshakes_done = 0
        self.handshakes_failed = 0
        self.strangers_failed = 0
        self.last_error = ""

    def count_accepted(self, direction: Direction) -> None:
        """One more of what the kernel had captured."""
        if direction is Direction.OUTBOUND:
            self.accepted_outbound += 1
        else:
            self.accepted_inbound += 1

    def count_failed_handshake(self, is_member: bool, detail: str) -> None:
        """A peer's handshake with it came to nothing."""
        if is_member:
            self.handshakes_failed += 1
            self.last_error = detail
        else:
            self.strangers_failed += 1

    def row(self) -> list[int]:
        """In the order of channel.Stats.pods."""
        return [
            self.accepted_outbound,
            self.accepted_inbound,
            self.tunnels_made,
            self.tunnels_failed,
            self.handshakes_done,
            self.handshakes_failed,
        ]


class Tallies:
    """The tallies of a worker by pod address."""

    def __init__(self) -> None:
        self._by_address: dict[IP, PodTally] = {}
        self.faults: Counter[tuple[End, Fault]] = Counter()
        """Handshakes that failed, by the end that this worker was."""
        self.accept_pauses = 0
        """How often nothing was accepted for a moment, for want of descriptors."""

    def of(self, address: IP) -> PodTally:
        """The tally of a pod's address. It lasts until the pod leaves."""
        tally = self._by_address.get(address)
        return tally if tally is not None else self._by_address.setdefault(address, PodTally())

    def forget(self, addresses: Iterable[IP]) -> None:
        for address in addresses:
            self._by_address.pop(address, None)

    def rows(self) -> list[tuple[str, list[int], str]]:
        """Address, counts and last error of every pod, for the control process."""
        return [(str(ip), tally.row(), tally.last_error) for ip, tally in self._by_address.items()]

    def strangers(self) -> list[tuple[str, int]]:
        """As channel.Stats has them."""
        return [
            (str(ip), tally.strangers_failed)
            for ip, tally in self._by_address.items()
            if tally.strangers_failed
        ]
