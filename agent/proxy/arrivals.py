"""What comes in by the listeners, before anything is decided: counted for its pod, and proofs of life answered.

The control process dials each listener in its private namespace to prove that a worker serves it. Such a dial has
the proxy's own address at both ends, which nobody else can have: a pod is held to its own address, and what comes
from the network goes to the address of a pod. It is closed without a word, and that is the answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable

from agent.model.address import IP, SocketAddress
from agent.model.connection import Direction

OnAccept = Callable[[socket.socket, SocketAddress, SocketAddress], None]


class PodTally:
    """What became of the connections of one pod address, in this worker. `last_error` is for people."""

    __slots__ = (
        "accepted_inbound",
        "accepted_outbound",
        "handshakes_done",
        "handshakes_failed",
        "last_error",
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
        self.last_error = ""

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


class Arrivals:
    """The tallies by pod address, and the doors in front of the handlers. One per worker."""

    def __init__(self, own_addresses: Collection[IP]) -> None:
        self._own = frozenset(own_addresses)
        self._tallies: dict[IP, PodTally] = {}

    def of(self, address: IP) -> PodTally:
        """The tally of a pod's address. It lasts until the pod leaves."""
        tally = self._tallies.get(address)
        return tally if tally is not None else self._tallies.setdefault(address, PodTally())

    def forget(self, addresses: Iterable[IP]) -> None:
        for address in addresses:
            self._tallies.pop(address, None)

    def rows(self) -> list[tuple[str, list[int], str]]:
        """Address, counts and last error of every pod, for the control process."""
        return [(str(ip), tally.row(), tally.last_error) for ip, tally in self._tallies.items()]

    def door(self, direction: Direction, handler: OnAccept) -> OnAccept:
        """The handler of a listener, behind the count. Outbound the pod is the peer, inbound it is the local end."""
        own, of = self._own, self.of

        def outbound(sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
            if peer.ip in own and local.ip in own:
                sock.close()
                return
            of(peer.ip).accepted_outbound += 1
            handler(sock, peer, local)

        def inbound(sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
            if peer.ip in own and local.ip in own:
                sock.close()
                return
            of(local.ip).accepted_inbound += 1
            handler(sock, peer, local)

        return outbound if direction is Direction.OUTBOUND else inbound
