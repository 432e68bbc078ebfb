"""Accepted connections of which nothing has come yet: they move as they came, and begin anew.

Of a peer at the tunnel port goes along what it has said so far, and for how long it has been heard.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.model.unit import StateReader, Unit
from agent.model.unit_values import socket_address
from agent.proxy.lobby import Caller
from agent.proxy.movable import Sockets, StaysHere
from agent.proxy.outbound import OutboundConnection
from agent.proxy.seeker import Wait
from agent.wire.tls_records import HEADER_BYTES, MAX_CIPHER_BYTES

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

SEEKING, CALLER = "seeking", "caller"
GONE = "it is not there any more"
_SIZE_HINT = 1024


class MovableSeeking:
    """A client whose destination the mesh state lacks so far."""

    size_hint = _SIZE_HINT

    def __init__(self, plane: DataPlane, life: OutboundConnection) -> None:
        self._plane = plane
        self._life = life
        self._sock: socket.socket | None = None

    def freeze(self) -> tuple[Unit, list[int]]:
        life = self._life
        if life.is_over or not isinstance(life.attempt, Wait) or life.client is None:
            raise StaysHere(GONE)
        sock = self._sock = life.withdraw()
        life.part()
        return Unit(SEEKING, {"peer": str(life.peer), "local": str(life.local)}), [sock.fileno()]

    def take_back(self) -> None:
        assert self._sock is not None
        self._plane.outbound.accepted(self._sock, self._life.peer, self._life.local)

    def let_go(self) -> None:
        assert self._sock is not None
        self._sock.close()


class ThawedSeeking:
    def __init__(self, plane: DataPlane, unit: Unit, sockets: Sockets) -> None:
        fields = StateReader(SEEKING, unit.fields)
        self._plane = plane
        self._sockets = sockets
        self._peer, self._local = socket_address(fields, "peer"), socket_address(fields, "local")
        fields.done()
        self._sock = sockets.take()
        sockets.done()

    def start(self) -> None:
        # It was counted for its pod when it was accepted.
        self._plane.outbound.accepted(self._sock, self._peer, self._local)

    def drop(self) -> None:
        self._sockets.close()


class MovableCaller:
    """A peer at the tunnel port that has not said a whole hello."""

    size_hint = _SIZE_HINT

    def __init__(self, plane: DataPlane, caller: Caller) -> None:
        self._plane = plane
        self._caller = caller

    def freeze(self) -> tuple[Unit, list[int]]:
        caller = self._caller
        if not caller.is_watched or not self._plane.inbound.lobby.hand_on(caller):
            raise StaysHere(GONE)
        unit = Unit(
            CALLER,
            {
                "peer": str(caller.peer),
                "local": str(caller.local),
                "said": caller.said,
                "been_s": self._plane.loop.now() - caller.since_s,
            },
        )
        return unit, [caller.sock.fileno()]

    def take_back(self) -> None:
        caller = self._caller
        been_s = self._plane.loop.now() - caller.since_s
        self._plane.inbound.lobby.resume(caller.sock, caller.peer, caller.local, caller.said, been_s)

    def let_go(self) -> None:
        self._caller.sock.close()


class ThawedCaller:
    def __init__(self, plane: DataPlane, unit: Unit, sockets: Sockets) -> None:
        fields = StateReader(CALLER, unit.fields)
        self._plane = plane
        self._sockets = sockets
        self._peer, self._local = socket_address(fields, "peer"), socket_address(fields, "local")
        self._said = fields.blob("said", HEADER_BYTES + MAX_CIPHER_BYTES)
        self._been_s = fields.number("been_s")
        fields.done()
        self._sock = sockets.take()
        sockets.done()

    def start(self) -> None:
        self._plane.inbound.resume(self._sock, self._peer, self._local, self._said, self._been_s)

    def drop(self) -> None:
        self._sockets.close()


def thawed(plane: DataPlane, unit: Unit, fds: Sequence[int]) -> ThawedSeeking | ThawedCaller:
    """Raises BadUnit; the descriptors are closed then."""
    sockets = Sockets(fds)
    try:
        if unit.kind == SEEKING:
            return ThawedSeeking(plane, unit, sockets)
        return ThawedCaller(plane, unit, sockets)
    except BaseException:
        sockets.close()
        raise
