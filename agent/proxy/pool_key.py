"""What connections of the pool are kept by, who makes them, and who asks for tunnels in them."""

from __future__ import annotations

import socket
from typing import NamedTuple, Protocol

from agent.model.address import IP, SocketAddress
from agent.model.identity import Identity
from agent.model.outcome import Refusal
from agent.model.unit import State, StateReader
from agent.model.unit_values import identities, identity, ip, socket_address
from agent.net.dial import Dial, DialOwner
from agent.net.tunnel import Tunnel, TunnelClientEvents
from agent.net.tunnel_link import TunnelLink

MOST_ACCEPTED = 256
"""Identities that may serve one destination, of a key that is taken over."""
Headers = tuple[tuple[str, str], ...]


class PoolKey(NamedTuple):
    """What two tunnels must share to share a connection."""

    source: Identity
    accepted: tuple[Identity, ...]
    target: SocketAddress
    client_ip: IP

    def state(self) -> State:
        return {
            "source": str(self.source),
            "accepted": [str(each) for each in self.accepted],
            "target": str(self.target),
            "client_ip": str(self.client_ip),
        }

    @classmethod
    def from_state(cls, fields: StateReader) -> PoolKey:
        """Raises BadUnit."""
        key = cls(
            identity(fields, "source"),
            identities(fields, "accepted", MOST_ACCEPTED),
            socket_address(fields, "target"),
            ip(fields, "client_ip"),
        )
        fields.done()
        return key


class Connector(Protocol):
    """Makes the connection of a key in two steps."""

    def dial(self, key: PoolKey, owner: DialOwner) -> Dial: ...

    def link(self, key: PoolKey, sock: socket.socket, events: TunnelClientEvents) -> TunnelLink:
        """Not started. Raises Refusal; the socket is closed then."""


class WantsTunnel(Protocol):
    """Who asks the pool. Exactly one of the two is called, once, unless the place in line is cancelled."""

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        """The peer answered 200, with these headers."""

    def refused(self, refusal: Refusal) -> None: ...
