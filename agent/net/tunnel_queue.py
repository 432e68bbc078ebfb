"""Requests of the dialling end that wait to be sent: for the handshake, or for a place under the peer's limit.

How many tunnels fit is what the peer's SETTINGS say now, under a cap of our own. `tunnel_link` says when to send
and when there is nothing to wait for any more.
"""

from __future__ import annotations

from collections import deque

from agent.model.outcome import Outcome
from agent.net.tunnel import Tunnel
from agent.wire.h2_tunnel import H2Tunnels

MOST_QUEUED = 1 << 14
"""Of a link that is taken over."""


class TunnelQueue:
    """In the order of asking. `cap` is the most tunnels of one connection, whatever the peer allows."""

    __slots__ = ("_cap", "_codec", "_tunnels")

    def __init__(self, codec: H2Tunnels, cap: int) -> None:
        self._codec = codec
        self._cap = cap
        self._tunnels: deque[Tunnel] | None = None
        """Made for the first to wait: an empty one takes as much memory as the rest of a connection's bookkeeping."""

    def __len__(self) -> int:
        return 0 if self._tunnels is None else len(self._tunnels)

    @property
    def limit(self) -> int:
        """Tunnels that the connection may carry at once."""
        limit = self._codec.peer_streams
        return self._cap if limit is None else min(limit, self._cap)

    def tunnels(self) -> tuple[Tunnel, ...]:
        return tuple(self._tunnels or ())

    def put(self, tunnel: Tunnel) -> None:
        if self._tunnels is None:
            self._tunnels = deque()
        self._tunnels.append(tunnel)

    def drop(self, tunnel: Tunnel) -> None:
        """It is not wanted any more; nothing if it is not here."""
        tunnels = self._tunnels
        if tunnels and tunnel in tunnels:
            tunnels.remove(tunnel)

    def send(self) -> None:
        """Ask the peer for as many as fit; their frames are in the codec then."""
        codec, tunnels = self._codec, self._tunnels
        while tunnels and codec.can_open and len(codec.streams) < self.limit:
            tunnel = tunnels.popleft()
            stream = codec.open(tunnel.head.authority, tunnel.head.headers)
            tunnel.stream, stream.owner = stream, tunnel

    def refuse(self, outcome: Outcome, detail: str) -> None:
        """None of them will be sent. Who is told may put others in: those stay."""
        tunnels, self._tunnels = self._tunnels, None
        for tunnel in tunnels or ():
            tunnel.fail(outcome, detail)
