"""Where captured DNS arrives in a worker. What answers it is loaded with the first pod whose DNS is captured: most
nodes have none.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from agent.model.address import IP, SocketAddress
from agent.model.listener import DNS
from agent.net.accept import OnAccept
from agent.net.loop import Loop
from agent.telemetry.metrics import Sample

log = logging.getLogger(__name__)

LATE_ANSWERS_S = 5.0
"""For so long what was read is still answered by a socket that is read by another worker."""


class Door(Protocol):
    """Reads one socket."""

    def start(self) -> None: ...

    def stop(self) -> None:
        """Read no more, but answer what was read."""

    def close(self) -> None: ...


class Resolver(Protocol):
    """What answers."""

    def door(self, sock: socket.socket) -> Door:
        """For what comes by this socket, which belongs to it from now on."""

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None: ...

    @property
    def connections(self) -> int:
        """Open now."""

    def forget(self) -> None:
        """Pods have changed."""

    def samples(self) -> Iterable[Sample]: ...


class Handled(Protocol):
    """A listener's `handler`, where another can be put in its place."""

    handler: OnAccept


class DnsDoor:
    """One per worker. `load` makes what answers; `may_load` is asked before where that comes late."""

    def __init__(self, loop: Loop, may_load: Callable[[], object], load: Callable[[], Resolver]) -> None:
        self._loop = loop
        self._may_load = may_load
        self._load = load
        self._is_refused = False
        self._resolver: Resolver | None = None
        self._clients: frozenset[IP] = frozenset()
        self._sockets: dict[int, socket.socket] = {}
        """By owner, as long as nobody reads them."""
        self._doors: dict[int, Door] = {}
        self._connections: list[Handled] = []

    def stand_before(self, captured: Handled) -> None:
        """Connections to name servers of pods whose DNS is captured do not come to this handler.

        Until there is such a pod it is left as it is: to look would cost each connection a call.
        """
        self._connections.append(captured)
        if self._resolver is not None:
            captured.handler = partial(self._accepted, captured.handler)

    def answers(self) -> Resolver:
        """What answers; it is loaded, and reads what it can."""
        resolver = self._resolver
        if resolver is None:
            resolver = self._resolver = self._load()
            for owner in tuple(self._sockets):
                self._open(owner, resolver)
            for captured in self._connections:
                captured.handler = partial(self._accepted, captured.handler)
        return resolver

    def capture(self, clients: Iterable[IP]) -> None:
        """The addresses of the pods whose DNS comes here, all of them."""
        self._clients = frozenset(clients)
        if not self._clients or self._is_refused:
            return
        if self._resolver is None:
            try:
                self._may_load()
            except OSError as error:
                # Half of one build and half of another would guess: nobody is answered until the agent is restarted.
                log.error("captured DNS is not answered: %s", error)
                self._is_refused = True
                return
        self.answers()

    def forget(self) -> None:
        if self._resolver is not None:
            self._resolver.forget()

    def serve(self, owner: int, sock: socket.socket) -> None:
        """Answer what comes by this socket, which belongs to the door from now on."""
        self._sockets[owner] = sock
        if self._resolver is not None:
            self._open(owner, self._resolver)

    def release(self, owner: int) -> None:
        """Another worker reads what comes for this owner."""
        sock = self._sockets.pop(owner, None)
        if sock is not None:
            sock.close()
        door = self._doors.pop(owner, None)
        if door is not None:
            door.stop()
            self._loop.later(LATE_ANSWERS_S, door.close)

    def _accepted(
        self, handler: OnAccept, sock: socket.socket, peer: SocketAddress, local: SocketAddress
    ) -> None:
        resolver = self._resolver
        if local.port == DNS.port and resolver is not None and peer.ip in self._clients:
            resolver.accepted(sock, peer, local)
        else:
            handler(sock, peer, local)

    def _open(self, owner: int, resolver: Resolver) -> None:
        door = self._doors[owner] = resolver.door(self._sockets.pop(owner))
        door.start()

    @property
    def connections(self) -> int:
        """Of pods to their name servers, that are answered here."""
        return self._resolver.connections if self._resolver is not None else 0

    def samples(self) -> Iterable[Sample]:
        return self._resolver.samples() if self._resolver is not None else ()
