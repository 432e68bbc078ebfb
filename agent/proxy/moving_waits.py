"""Accepted connections of which nothing has come yet: they move as they came, and begin anew.

One that asks for a tunnel is counted already, and goes on under that count. With a peer at the tunnel port goes what it
has said so far, and for how long it has been heard.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.model.connection import Direction
from agent.model.unit import BadUnit, State, StateReader, StaysHere, Unit
from agent.model.unit_values import socket_address
from agent.net.tunnel import MOST_HEADERS
from agent.proxy.lobby import Caller
from agent.proxy.movable import Sockets, Standing, Thawed, take_back
from agent.proxy.outbound import OutboundConnection
from agent.proxy.pool_key import PoolKey
from agent.proxy.pool_waiter import Waiter
from agent.proxy.registry import Live
from agent.proxy.seeker import Wait
from agent.wire.hbone import BadConnect, connect_head
from agent.wire.tls_records import HEADER_BYTES, MAX_CIPHER_BYTES

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

ASKING, SEEKING, CALLER = "asking", "seeking", "caller"
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
        sock = self._sock = life.leave_client()
        life.withdraw()
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


class MovableAsking:
    """A client whose tunnel nobody has been asked for yet: the connection that it is to go by is being made.

    That connection stays, and ends where nobody else waits for it. Another is made elsewhere.
    """

    size_hint = _SIZE_HINT

    def __init__(self, plane: DataPlane, life: OutboundConnection, waiter: Waiter) -> None:
        self._plane = plane
        self._life = life
        self._waiter = waiter
        self._unit = Unit(ASKING, {})
        self._sock: socket.socket | None = None

    def freeze(self) -> tuple[Unit, list[int]]:
        life, waiter = self._life, self._waiter
        if life.is_over or life.attempt is not waiter or waiter.is_on_its_way or life.client is None:
            raise StaysHere(GONE)
        sock = self._sock = life.leave_client()
        fields: State = {
            "standing": Standing.state(self._plane, life),
            "key": waiter.key.state(),
            "authority": waiter.head.authority,
            "headers": [text for header in waiter.head.headers for text in header],
            "waited_s": waiter.withdraw(),
        }
        life.part()
        self._unit = Unit(ASKING, fields)
        return self._unit, [sock.fileno()]

    def take_back(self) -> None:
        assert self._sock is not None
        take_back(self._plane, self._unit, [self._sock.detach()], thawed)

    def let_go(self) -> None:
        assert self._sock is not None
        self._sock.close()


class ThawedAsking:
    def __init__(self, plane: DataPlane, unit: Unit, sockets: Sockets) -> None:
        fields = StateReader(ASKING, unit.fields)
        self._plane = plane
        self._sockets = sockets
        self._client = sockets.take()
        self._key = PoolKey.from_state(fields.within("key"))
        texts = fields.texts("headers", MOST_HEADERS)
        try:
            self._head = connect_head(fields.text("authority"), zip(texts[::2], texts[1::2], strict=True))
        except (BadConnect, ValueError) as error:
            raise fields.refuse("authority", str(error)) from None
        self._waited_s = fields.number("waited_s")
        self._standing = Standing.from_state(fields.within("standing"), self._made)
        fields.done()
        sockets.done()

    def _made(self, live: Live) -> OutboundConnection:
        if live.direction is not Direction.OUTBOUND or live.pod != self._key.client_ip:
            raise BadUnit("a tunnel of another pod than the connection that is to carry it")
        self._life = OutboundConnection(self._plane.outbound, self._client, live.source, live.original)
        return self._life

    def start(self) -> None:
        ends = self._standing.start(self._plane)
        waiter = self._plane.pool.open(self._key, self._head, self._life)
        waiter.has_waited(self._waited_s)
        self._life.built(attempt=waiter)
        self._life.go_on(ends)

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


def thawed(plane: DataPlane, unit: Unit, fds: Sequence[int]) -> Thawed:
    """Raises BadUnit; the descriptors are closed then."""
    sockets = Sockets(fds)
    try:
        return _THAWED[unit.kind](plane, unit, sockets)
    except BaseException:
        sockets.close()
        raise


_THAWED: dict[str, Callable[[DataPlane, Unit, Sockets], Thawed]] = {
    ASKING: ThawedAsking,
    SEEKING: ThawedSeeking,
    CALLER: ThawedCaller,
}
