"""Connections whose client still waits for the answer to its SYN: the other end first, then the client.

A held life is what its base class is, but for its beginning: it has no socket. What it reaches waits until the SYN is
let in and the connection accepted; a refusal is the gate's to tell, as there is nothing to reset. A connection that is
accepted while its other end is not reached yet (its SYN was let by) joins here, and goes on as others do.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from agent.model.address import SocketAddress
from agent.model.outcome import Outcome, Refusal
from agent.net.farewell import close
from agent.net.tunnel import Tunnel
from agent.proxy.inbound_plain import InboundPlain, PlainConnection
from agent.proxy.life import CapturedLife
from agent.proxy.outbound import Outbound, OutboundConnection
from agent.proxy.pool import Headers

NO_SOCKET_YET = cast(socket.socket, None)
ENDED_EARLY = "the other end closed before the client was told that it is reached"


class Keeper(Protocol):
    """Who holds the SYN."""

    def reached(self, life: HeldLife) -> None:
        """The other end is there: let the client in."""

    def turned_away(self, life: HeldLife, outcome: Outcome) -> None:
        """Nothing comes of it."""


class HeldLife(CapturedLife):
    """To be put before the class of the connection, which sets it up by `_hold`."""

    # No slots: next to a base that has some, only the final class could have them.

    def _hold(self, keeper: Keeper) -> None:
        self.has_client = False
        self._keeper = keeper
        self._go_on: Callable[[], None] | None = None
        """What is to be done with the other end once the client is there."""
        self._let_go: Callable[[], None] | None = None
        """Ends the other end, if it never is."""

    @property
    def key(self) -> tuple[SocketAddress, SocketAddress]:
        return self.peer, self.local

    def joined(self, sock: socket.socket) -> None:
        """Its connection was accepted: the socket is this object's."""
        self._sock, self.has_client = sock, True
        go_on, self._go_on, self._let_go = self._go_on, None, None
        if go_on is not None:
            go_on()
        else:
            self._watch_client()

    def connected(self, sock: socket.socket) -> None:
        if self.has_client:
            super().connected(sock)
        else:
            self._wait(partial(super().connected, sock), partial(self._drop, sock))

    def _wait(self, go_on: Callable[[], None], let_go: Callable[[], None]) -> None:
        self._attempt = None
        self._go_on, self._let_go = go_on, let_go
        self._keeper.reached(self)

    def _watch_client(self) -> None:
        if self.has_client:
            super()._watch_client()

    def _turn_away(self, outcome: Outcome) -> None:
        if self.has_client:
            super()._turn_away(outcome)
        else:
            self._keeper.turned_away(self, outcome)

    def _end(self, outcome: Outcome, detail: str) -> None:
        let_go, self._let_go, self._go_on = self._let_go, None, None
        if let_go is not None:
            let_go()
        super()._end(outcome, detail)

    def _drop(self, sock: socket.socket) -> None:
        self._loop.forget(sock.fileno())
        close(sock, reset=True)


class HeldOutbound(HeldLife, OutboundConnection):
    """A connection that a pod wants to open."""

    def __init__(self, outbound: Outbound, keeper: Keeper, peer: SocketAddress, local: SocketAddress) -> None:
        super().__init__(outbound, NO_SOCKET_YET, peer, local)
        self._hold(keeper)

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        if self.has_client:
            super().opened(tunnel, headers)
            return
        tunnel.owner = self
        self._wait(partial(super().opened, tunnel, headers), tunnel.reset)

    def gone(self, tunnel: Tunnel) -> None:
        """The tunnel ended while the client was on its way in: it is not kept waiting for a time-out."""
        self._let_go = None
        self.refused(tunnel.failure or Refusal(Outcome.RESET, ENDED_EARLY))


class HeldPlain(HeldLife, PlainConnection):
    """A plaintext connection that somebody wants to open to a pod."""

    def __init__(
        self, inbound: InboundPlain, keeper: Keeper, peer: SocketAddress, local: SocketAddress
    ) -> None:
        super().__init__(inbound, NO_SOCKET_YET, peer, local)
        self._hold(keeper)
