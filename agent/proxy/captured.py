"""Lives whose client is a captured TCP connection: accepted already, or with its SYN still held.

One that is held begins with the other end. It has no socket then: what it reaches waits until the SYN is let in and the
connection accepted; a refusal is the keeper's to tell, as there is nothing to reset. A connection that is accepted
while its other end is not reached yet (its SYN was let by) joins here, and goes on as others do.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from agent.model.address import SocketAddress
from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.loop import Loop
from agent.proxy.life import Life, client_refusal
from agent.proxy.registry import Registry
from agent.proxy.report import Reporter


class Keeper(Protocol):
    """Who holds the SYN."""

    def reached(self, life: CapturedLife) -> None:
        """The other end is there: let the client in."""

    def turned_away(self, life: CapturedLife, outcome: Outcome) -> None:
        """Nothing comes of it."""


class _Hold:
    """What stands for the client until it is there."""

    __slots__ = ("go_on", "keeper", "let_go")

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.go_on: Callable[[], None] | None = None
        """What is to be done with the other end once the client is there."""
        self.let_go: Callable[[], None] | None = None
        """Ends the other end, if it never is."""


class CapturedLife(Life):
    """A life with a `client`: its socket, or the keeper of its SYN. `_sock` is there once the client is."""

    __slots__ = ("_hold", "_sock")
    _sock: socket.socket

    def __init__(
        self,
        loop: Loop,
        registry: Registry,
        reporter: Reporter,
        client: socket.socket | Keeper,
        peer: SocketAddress,
        local: SocketAddress,
    ) -> None:
        super().__init__(loop, registry, reporter, peer, local)
        self._hold: _Hold | None = None
        if isinstance(client, socket.socket):
            self._sock = client
        else:
            self._hold = _Hold(client)

    @property
    def key(self) -> tuple[SocketAddress, SocketAddress]:
        """What its keeper knows it by."""
        return self.peer, self.local

    @property
    def client(self) -> socket.socket | None:
        """Its connection, once there is one."""
        return self._sock if self._hold is None else None

    def leave_client(self) -> socket.socket:
        """It is not watched any more."""
        self._loop.forget(self._sock.fileno())
        return self._sock

    def joined(self, sock: socket.socket) -> None:
        """Its connection was accepted: the socket is this object's."""
        hold, self._hold, self._sock = self._hold, None, sock
        if hold is not None and hold.go_on is not None:
            hold.go_on()
        else:
            self._watch_client()

    def connected(self, sock: socket.socket) -> None:
        if self._hold is None:
            super().connected(sock)
        else:
            self._wait(self._hold, partial(self.connected, sock), partial(self._drop, sock))

    def _wait(self, hold: _Hold, go_on: Callable[[], None], let_go: Callable[[], None]) -> None:
        self._attempt = None
        hold.go_on, hold.let_go = go_on, let_go
        hold.keeper.reached(self)

    def _watch_client(self) -> None:
        # Until there is a relay only a reset (EPOLLERR: always reported) is of interest. A FIN is not: a client
        # may end its direction and wait for the answer, and that looks just like leaving.
        if self._hold is None:
            self._loop.watch(self._sock.fileno(), self._on_client, mask=select.EPOLLET)

    def _on_client(self, mask: int) -> None:
        # No error: an edge of a former owner of this descriptor number.
        if not self._is_over and (error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self.refused(client_refusal(error))

    def _turn_away(self, outcome: Outcome) -> None:
        if self._hold is None:
            # An RST: there is no other way to tell an application that speaks TCP.
            self._loop.leave(self._sock.fileno())
            close(self._sock, reset=True)
        else:
            self._hold.keeper.turned_away(self, outcome)

    def _end(self, outcome: Outcome, detail: str) -> None:
        if self._hold is not None:
            let_go, self._hold.let_go, self._hold.go_on = self._hold.let_go, None, None
            if let_go is not None:
                let_go()
        super()._end(outcome, detail)

    def _drop(self, sock: socket.socket) -> None:
        self._loop.forget(sock.fileno())
        close(sock, reset=True)
