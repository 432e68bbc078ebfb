"""Plain relays that move: passthrough, plaintext inbound, and the hand-over inside the node with its two records."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.model.connection import Direction
from agent.model.unit import BadUnit, State, StateReader, Unit, decode, encode
from agent.net.plain_relay import PlainRelay
from agent.proxy.captured import CapturedLife
from agent.proxy.inbound_plain import PlainConnection
from agent.proxy.local import HandedOver
from agent.proxy.movable import Sockets, Standing, StaysHere
from agent.proxy.outbound import OutboundConnection
from agent.proxy.registry import Live

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

KIND = "relay"


class MovableRelay:
    """One that carries bytes between two plain sockets."""

    def __init__(self, plane: DataPlane, life: CapturedLife, relay: PlainRelay) -> None:
        self._plane = plane
        self._life = life
        self._relay = relay
        self._unit = Unit(KIND, {})
        self._sockets: list[socket.socket] = []

    @property
    def size_hint(self) -> int:
        return self._relay.unread_bytes

    def freeze(self) -> tuple[Unit, list[int]]:
        life, relay = self._life, self._relay
        if relay.stays:
            raise StaysHere(relay.stays)
        relay.freeze()
        self._sockets = list(relay.sockets())
        half = life.far_half
        fields: State = {"standing": Standing.state(self._plane, life), "half": None, "relay": relay.state()}
        if half is not None:
            assert isinstance(half, HandedOver)
            crossing = half.hand_on_crossing()
            fields |= {"half": Standing.state(self._plane, half), "is_crossed": bool(crossing)}
            self._sockets += crossing
        life.part()
        self._unit = Unit(KIND, fields)
        return self._unit, [sock.fileno() for sock in self._sockets]

    def take_back(self) -> None:
        fds = [sock.detach() for sock in self._sockets]
        thawed_relay(self._plane, decode(encode(self._unit)), fds).start()

    def let_go(self) -> None:
        for sock in self._sockets:
            sock.close()


class ThawedRelay:
    """The same, in the process that goes on with it."""

    def __init__(
        self, plane: DataPlane, standings: list[Standing], life: CapturedLife, sockets: Sockets
    ) -> None:
        self._plane = plane
        self._standings = standings
        self._life = life
        self._sockets = sockets

    def start(self) -> None:
        ends = [standing.start(self._plane) for standing in self._standings]
        self._life.go_on(next(filter(None, ends), None))

    def drop(self) -> None:
        self._life.part()
        self._sockets.close()


def thawed_relay(plane: DataPlane, unit: Unit, fds: Sequence[int]) -> ThawedRelay:
    """Raises BadUnit and Refusal; the descriptors are closed then."""
    sockets = Sockets(fds)
    try:
        return _thawed(plane, StateReader(KIND, unit.fields), sockets)
    except BaseException:
        sockets.close()
        raise


def _thawed(plane: DataPlane, fields: StateReader, sockets: Sockets) -> ThawedRelay:
    client, server = sockets.take(), sockets.take()
    lives: list[CapturedLife] = []

    def make(live: Live) -> CapturedLife:
        if live.direction is Direction.OUTBOUND:
            life: CapturedLife = OutboundConnection(plane.outbound, client, live.source, live.original)
        else:
            life = PlainConnection(plane.inbound_plain, client, live.source, live.original)
        lives.append(life)
        return life

    standings = [Standing.from_state(fields.within("standing"), make)]
    (life,) = lives
    half: HandedOver | None = None
    if fields.has("half"):
        if life.direction is not Direction.OUTBOUND:
            raise BadUnit("only what leaves a pod is handed over inside the node")

        def make_half(live: Live) -> HandedOver:
            nonlocal half
            assert live.connection is not None, "that of an inbound one"
            half = HandedOver(plane.local_path, live.connection, life)
            return half

        standings.append(Standing.from_state(fields.within("half"), make_half))
        if fields.flag("is_crossed"):
            assert half is not None
            half.crossed(sockets.take(), sockets.take(), life)
    relay = PlainRelay.from_state(plane.loop, fields.value("relay"), client, server, life)
    fields.done()
    sockets.done()
    life.built(relay=relay, far_half=half)
    return ThawedRelay(plane, standings, life, sockets)
