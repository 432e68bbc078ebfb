"""What joins two plain sockets, or is about to: passthrough, plaintext inbound, and the hand-over inside the node.

The last has two records, one for each end, and with `--local-path=host` two sockets more, of what crosses the host.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.model.connection import Direction
from agent.model.unit import BadUnit, PlainValue, State, StateReader, StaysHere, Unit
from agent.net.dial import Dial
from agent.net.plain_relay import PlainRelay
from agent.proxy.captured import CapturedLife
from agent.proxy.inbound_plain import PlainConnection
from agent.proxy.local import HandedOver
from agent.proxy.movable import Sockets, Standing, take_back
from agent.proxy.outbound import OutboundConnection
from agent.proxy.registry import Live

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

RELAY, DIAL = "relay", "dial"
_SIZE_HINT = 2048


class MovablePlain:
    """A relay, or the dial that it begins with once that has an answer."""

    def __init__(self, plane: DataPlane, life: CapturedLife, work: PlainRelay | Dial) -> None:
        self._plane = plane
        self._life = life
        self._work = work
        self._unit = Unit(RELAY, {})
        self._sockets: list[socket.socket] = []

    @property
    def size_hint(self) -> int:
        work = self._work
        return _SIZE_HINT + (work.unread_bytes if isinstance(work, PlainRelay) else 0)

    def freeze(self) -> tuple[Unit, list[int]]:
        life, work = self._life, self._work
        if why := work.stays or ("it has ended" if life.is_over else ""):
            raise StaysHere(why)
        if isinstance(work, Dial) and life.attempt is not work:
            raise StaysHere("it is connected by now")
        work.freeze()
        if isinstance(work, PlainRelay):
            self._sockets = list(work.sockets())
        else:
            self._sockets = [life.leave_client(), work.sock]
        half = life.far_half
        fields: State = {"standing": Standing.state(self._plane, life), "half": None, "state": work.state()}
        if half is not None:
            assert isinstance(half, HandedOver)
            crossing = half.hand_on_crossing()
            fields |= {"half": Standing.state(self._plane, half), "is_crossed": bool(crossing)}
            self._sockets += crossing
        life.part()
        self._unit = Unit(RELAY if isinstance(work, PlainRelay) else DIAL, fields)
        return self._unit, [sock.fileno() for sock in self._sockets]

    def take_back(self) -> None:
        fds = [sock.detach() for sock in self._sockets]
        take_back(self._plane, self._unit, fds, thawed_plain)

    def let_go(self) -> None:
        for sock in self._sockets:
            sock.close()


class ThawedPlain:
    """The same, in the process that goes on with it. Its standing, and that of the other half where there is one."""

    def __init__(self, plane: DataPlane, fields: StateReader, sockets: Sockets) -> None:
        self._plane = plane
        self._sockets = sockets
        self._client = sockets.take()
        self._half: HandedOver | None = None
        self._dial: Dial | None = None
        standing = Standing.from_state(fields.within("standing"), self._made)
        life = standing.recorded
        assert isinstance(life, CapturedLife), "what was made"
        self._life = life
        self._standings = [standing]

    def _made(self, live: Live) -> CapturedLife:
        plane = self._plane
        if live.direction is Direction.OUTBOUND:
            return OutboundConnection(plane.outbound, self._client, live.source, live.original)
        if live.connection is None or live.connection.identity is not None:
            raise BadUnit("plaintext that claims to be somebody")
        return PlainConnection(plane.inbound_plain, self._client, live.source, live.original)

    def build(self, kind: str, fields: StateReader) -> None:
        """All but its client. Raises BadUnit, Refusal."""
        plane, life, sockets = self._plane, self._life, self._sockets
        server = sockets.take()
        if fields.has("half"):
            if life.direction is not Direction.OUTBOUND:
                raise BadUnit("only what leaves a pod is handed over inside the node")
            self._standings.append(Standing.from_state(fields.within("half"), self._made_half))
            if fields.flag("is_crossed"):
                assert self._half is not None, "made just now"
                self._half.crossed(sockets.take(), sockets.take(), life)
        state = fields.value("state")
        if kind == RELAY:
            relay = PlainRelay.from_state(plane.loop, state, self._client, server, life)
            life.built(relay=relay, far_half=self._half)
        else:
            self._dial = self._dialled(state, server)
            life.built(attempt=self._dial, far_half=self._half)
        fields.done()
        sockets.done()

    def _made_half(self, live: Live) -> HandedOver:
        if live.connection is None or live.connection.identity is None:
            raise BadUnit("a hand-over inside the node to nobody, or from nobody")
        self._half = HandedOver(self._plane.local_path, live.connection, self._life)
        return self._half

    def _dialled(self, state: PlainValue, sock: socket.socket) -> Dial:
        is_to_pod = self._half is not None or self._life.direction is Direction.INBOUND
        dialler = self._plane.delivery.dialler if is_to_pod else self._plane.outbound.dialler
        return Dial.from_state(dialler, state, sock, self._life)

    def start(self) -> None:
        ends = [standing.start(self._plane) for standing in self._standings]
        self._life.go_on(next(filter(None, ends), None))
        if self._dial is not None and not self._life.is_over:
            self._dial.start(self._dial.left_s)

    def drop(self) -> None:
        self._life.part()
        self._sockets.close()


def thawed_plain(plane: DataPlane, unit: Unit, fds: Sequence[int]) -> ThawedPlain:
    """Raises BadUnit and Refusal; the descriptors are closed then."""
    sockets = Sockets(fds)
    try:
        fields = StateReader(unit.kind, unit.fields)
        made = ThawedPlain(plane, fields, sockets)
        made.build(unit.kind, fields)
    except BaseException:
        sockets.close()
        raise
    return made
