"""What comes in by the listeners, before anything is decided: counted for its pod, and proofs of life answered.

The control process dials each listener in its private namespace to prove that a worker serves it. Such a dial has
the proxy's own address at both ends, which nobody else can have: a pod is held to its own address, and what comes
from the network goes to the address of a pod. It is closed without a word, and that is the answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from agent.model.address import IP, SocketAddress
from agent.model.connection import Direction
from agent.net.farewell import close
from agent.proxy.tallies import Tallies

OnAccept = Callable[[socket.socket, SocketAddress, SocketAddress], None]


class Arrivals:
    """The doors in front of the listeners' handlers. One per worker; `own_addresses` are the proxy's."""

    def __init__(self, own_addresses: Collection[IP], tallies: Tallies) -> None:
        self._own = frozenset(own_addresses)
        self._tallies = tallies

    def door(self, direction: Direction, handler: OnAccept) -> Door:
        return Door(self._own, self._tallies, direction, handler)


class Door:
    """In front of one listener's `handler`, which may become another while it is open."""

    __slots__ = ("_direction", "_is_outbound", "_of", "_own", "handler")

    def __init__(self, own: frozenset[IP], tallies: Tallies, direction: Direction, handler: OnAccept) -> None:
        self._own, self._of = own, tallies.of
        self._direction = direction
        self._is_outbound = direction is Direction.OUTBOUND
        self.handler = handler

    def arrived(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """Count it, and hand it on. Outbound the pod is the peer, inbound it is the local end."""
        if peer.ip in self._own and local.ip in self._own:
            close(sock, reset=False)
        else:
            self._of(peer.ip if self._is_outbound else local.ip).count_accepted(self._direction)
            self.handler(sock, peer, local)
