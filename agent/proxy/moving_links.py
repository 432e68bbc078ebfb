"""Connections of HBONE that move, of either end, with all their tunnels: those that carry, and those not answered yet.

A link and what hangs on it cannot be parted: what one tunnel is sent has its place among what all are sent. The link
forgets a relay whose both directions have ended, though bytes wait for the application: those are found by the bytes.
One that was cut stays here with the little that it still delivers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from agent.identity.presented import is_client_of
from agent.model.address import IP
from agent.model.connection import Direction
from agent.model.outcome import Outcome
from agent.model.unit import BadUnit, State, StateReader, StaysHere, Unit
from agent.model.unit_values import identity, socket_address
from agent.net.backlogs import Backlogs
from agent.net.dial import Dial
from agent.net.relay import TunnelRelay
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.proxy.dataplane import end_revoked
from agent.proxy.inbound import InboundLink, InboundTunnel
from agent.proxy.life import Life
from agent.proxy.movable import LEFT, Sockets, Standing, take_back
from agent.proxy.outbound import OutboundConnection
from agent.proxy.pool_key import PoolKey
from agent.proxy.pool_waiter import Waiter
from agent.proxy.pooled_link import Group, PooledLink
from agent.proxy.registry import Live
from agent.proxy.seeker import Wait
from agent.wire.h2_frames import MAX_STREAM_ID

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

CLIENT, SERVER = "client link", "server link"
MOST = 1 << 16
"""Of anything in one link. The codec knows better limits."""
MOST_PREFACE_BYTES = 1 << 10


class MovableLink:
    """One of them. `events` is who hears it, `carried` what is relayed by it."""

    def __init__(self, plane: DataPlane, events: PooledLink | InboundLink, link: TunnelLink) -> None:
        self._plane = plane
        self._events = events
        self._link = link
        self._unit = Unit(CLIENT, {})
        self._sockets: list[socket.socket] = []

    @property
    def pod(self) -> IP:
        return of_pod(self._events)

    @property
    def size_hint(self) -> int:
        return self._link.standstill.unread_bytes + 2048 * (1 + self._link.open_streams)

    @property
    def stays(self) -> str:
        """Why it cannot be frozen now; empty: it can."""
        if self._link.stays:
            return self._link.stays
        return next(filter(None, map(why_not, self._link.tunnels())), "")

    def freeze(self) -> tuple[Unit, list[int]]:
        link, plane = self._link, self._plane
        if why := self.stays:
            raise StaysHere(why)
        # Before: frozen tunnels know nobody any more.
        link.stage.flush()
        if why := self.stays:
            raise StaysHere(why)
        pod = plane.pods.at(self.pod)
        known = {tunnel: tunnel.asker or tunnel.owner for tunnel in link.tunnels()}
        carried = carried_by(link, plane.loop.backlogs)
        if not link.freeze():
            raise StaysHere("the connection has ended")
        owners = [known.get(tunnel) for tunnel in link.tunnels()]
        self._sockets = [link.sock]
        fields: State = {"pod": () if pod is None else pod.owner}
        relays: list[State] = []
        for relay in carried:
            if relay.stays:
                relay.leave()
                continue
            life = relay.owner
            assert isinstance(life, Life), "nobody else relays tunnels"
            relay.freeze()
            relays.append({"standing": Standing.state(plane, life), "relay": relay.state()})
            self._sockets.append(relay.sock)
            life.part()
        fields |= {"relays": relays, "link": link.state()}
        if isinstance(self._events, PooledLink):
            self._unit = Unit(CLIENT, fields | self._of_client(self._events, owners))
        else:
            self._unit = Unit(SERVER, fields | self._of_server(self._events, owners))
        return self._unit, [sock.fileno() for sock in self._sockets]

    def _of_client(self, pooled: PooledLink, owners: Sequence[object]) -> State:
        asked: list[State] = []
        for at, waiter in enumerate(owners):
            if isinstance(waiter, Waiter):
                life = waiter.owner
                assert isinstance(life, OutboundConnection), "others stay"
                self._sockets.append(life.leave_client())
                standing = Standing.state(self._plane, life)
                asked.append({"tunnel": at, "standing": standing, "waiter": waiter.hand_on()})
                life.part()
        return {
            "key": pooled.group.key.state(),
            "asked": asked,
            "idle_s": self._plane.pool.hand_on(pooled),
        }

    def _of_server(self, entry: InboundLink, owners: Sequence[object]) -> State:
        self._plane.inbound.links.discard(entry)
        dialled: list[State] = []
        sought: list[int] = []
        for at, life in enumerate(owners):
            if not isinstance(life, InboundTunnel):
                continue
            dial = life.attempt
            if isinstance(dial, Dial):
                dial.freeze()
                self._sockets.append(dial.sock)
                standing = Standing.state(self._plane, life)
                dialled.append(
                    {"tunnel": at, "standing": standing, "preface": life.preface, "dial": dial.state()}
                )
            else:
                life.withdraw()
                sought.append(at)
            life.part()
        return {
            "peer": str(entry.peer),
            "local": str(entry.local),
            "identity": str(entry.identity),
            "dialled": dialled,
            "sought": sought,
        }

    def take_back(self) -> None:
        fds = [sock.detach() for sock in self._sockets]
        take_back(self._plane, self._unit, fds, thawed_link)

    def let_go(self) -> None:
        for sock in self._sockets:
            sock.close()


def of_pod(events: PooledLink | InboundLink) -> IP:
    """Whose it is at this end."""
    return events.group.key.client_ip if isinstance(events, PooledLink) else events.local.ip


def links(plane: DataPlane) -> Iterator[MovableLink]:
    """All whose two ends have proven who they are."""
    for pooled in plane.pool.proven:
        assert pooled.link is not None, "it is proven"
        yield MovableLink(plane, pooled, pooled.link)
    for entry in tuple(plane.inbound.links):
        if entry.link.secured is not None:
            yield MovableLink(plane, entry, entry.link)


def why_not(tunnel: Tunnel) -> str:
    """Why a link stays where this is one of its tunnels; empty: it need not."""
    waiter, owner = tunnel.asker, tunnel.owner
    if isinstance(waiter, Waiter):
        life = waiter.owner
        if isinstance(life, OutboundConnection) and type(life) is OutboundConnection:
            return (
                "" if life.client is not None else "a client is asked to wait with its SYN (honest connects)"
            )
        return "it is asked for a tunnel into another network, or by a client of SOCKS5"
    if waiter is not None:
        return "somebody of another kind waits for a tunnel"
    if isinstance(owner, InboundTunnel):
        attempt = owner.attempt
        if isinstance(attempt, Dial):
            return attempt.stays
        return "" if isinstance(attempt, Wait) else "a destination is just being looked for"
    if owner is not None:
        return "what was reached waits for its client (honest connects)"
    if tunnel.sink is not None and not isinstance(tunnel.sink, TunnelRelay):
        return "it carries a connection into another network"
    return ""


def carried_by(link: TunnelLink, backlogs: Backlogs) -> list[TunnelRelay]:
    """What is relayed over it, also where the link has forgotten that. Not by way of the registry: that has many."""
    sinks = [tunnel.sink for tunnel in link.tunnels()]
    known = dict.fromkeys((*sinks, *backlogs.of(link)))
    return [relay for relay in known if isinstance(relay, TunnelRelay)]


class ThawedLink:
    """The same, in the process that goes on with it. `waiters` are of those who were not answered yet."""

    def __init__(
        self, plane: DataPlane, events: PooledLink | InboundLink, owner: tuple[str, ...], idle_s: float
    ) -> None:
        self._plane = plane
        self._events = events
        self._owner = owner
        self._idle_s = idle_s
        self.standings: list[tuple[Standing, Life]] = []
        self.waiters: list[Waiter] = []
        self.dials: list[tuple[Dial, Life]] = []
        self.new: list[Life] = []
        """Those that begin anew."""
        self.sockets = Sockets(())

    def stands(self, fields: StateReader, make: Callable[[Live], Life]) -> Life:
        """Makes the connection that `fields` has the standing of, to be started with the rest. Raises BadUnit."""
        standing = Standing.from_state(fields.within("standing"), make)
        life = standing.recorded
        assert isinstance(life, Life), "what was made"
        self.standings.append((standing, life))
        return life

    @property
    def link(self) -> TunnelLink:
        link = self._events.link
        assert link is not None, "it was made of one"
        return link

    def start(self) -> None:
        plane, events, link = self._plane, self._events, self.link
        pod = plane.pods.at(of_pod(events))
        if isinstance(events, PooledLink):
            plane.pool.take_up(events, self._idle_s)
            for waiter in self.waiters:
                waiter.go_on(events.group)
        else:
            events.take_up()
        # Registered all of them before any is judged, and judged before any byte is looked at.
        judged = [(life, standing.start(plane)) for standing, life in self.standings]
        link.start()
        for life, ends in judged:
            life.go_on(ends)
        for dial, life in self.dials:
            if not life.is_over:
                dial.start(dial.left_s)
        for life in self.new:
            life.start()
        if pod is None or pod.owner != self._owner:
            link.abort(Outcome.POD_REMOVED, LEFT)
        elif plane.revocations is not None:
            end_revoked(plane.revocations, link)

    def drop(self) -> None:
        for _, life in self.standings:
            life.part()
        self.sockets.close()


def thawed_link(plane: DataPlane, unit: Unit, fds: Sequence[int]) -> ThawedLink:
    """Raises BadUnit and Refusal; the descriptors are closed then."""
    sockets = Sockets(fds)
    try:
        fields = StateReader(unit.kind, unit.fields)
        made = _client(plane, fields, sockets) if unit.kind == CLIENT else _server(plane, fields, sockets)
        fields.done()
        sockets.done()
    except BaseException:
        sockets.close()
        raise
    made.sockets = sockets
    return made


def _client(plane: DataPlane, fields: StateReader, sockets: Sockets) -> ThawedLink:
    pooled = PooledLink(plane.pool, Group(PoolKey.from_state(fields.within("key"))))
    sock = sockets.take()
    link = pooled.link = plane.connector.resumed(pooled.group.key, fields.value("link"), sock, pooled)
    made = ThawedLink(plane, pooled, tuple(fields.texts("pod", 3)), fields.number("idle_s"))
    for each in fields.each("relays", MOST):
        client = sockets.take()
        life = made.stands(each, partial(_outbound, plane, pooled, client))
        life.built(relay=TunnelRelay.from_state(plane.loop, each.value("relay"), client, link, life))
        each.done()
    tunnels = link.tunnels()
    for each in fields.each("asked", MOST):
        at = each.integer("tunnel", 0, len(tunnels) - 1)
        asking = made.stands(each, partial(_outbound, plane, pooled, sockets.take()))
        assert isinstance(asking, OutboundConnection), "what was made"
        waiter = Waiter.from_state(plane.pool, pooled.group, tunnels[at], asking, each.within("waiter"))
        each.done()
        asking.built(attempt=waiter)
        made.waiters.append(waiter)
    return made


def _outbound(plane: DataPlane, pooled: PooledLink, client: socket.socket, live: Live) -> OutboundConnection:
    if live.direction is not Direction.OUTBOUND or live.pod != of_pod(pooled):
        raise BadUnit("a tunnel of another pod than the connection that carries it is made for")
    return OutboundConnection(plane.outbound, client, live.source, live.original)


def _server(plane: DataPlane, fields: StateReader, sockets: Sockets) -> ThawedLink:
    inbound = plane.inbound
    peer, local = socket_address(fields, "peer"), socket_address(fields, "local")
    entry = InboundLink(inbound, peer, local, identity(fields, "identity"))
    link = entry.link = TunnelLink.from_state(
        plane.loop,
        fields.value("link"),
        sockets.take(),
        entry,
        is_server=True,
        check=is_client_of(entry.identity),
        wants_chain=plane.revocations is not None,
        group=plane.secrets.group,
        limits=inbound.limits,
    )
    made = ThawedLink(plane, entry, tuple(fields.texts("pod", 3)), 0.0)
    for each in fields.each("relays", MOST):
        state = each.value("relay")
        tunnel = link.tunnel_on(StateReader("a relay", state).integer("stream", 1, MAX_STREAM_ID))
        life = made.stands(each, partial(_inbound, entry, tunnel))
        life.built(relay=TunnelRelay.from_state(plane.loop, state, sockets.take(), link, life))
        each.done()
    tunnels = link.tunnels()
    for each in fields.each("dialled", MOST):
        tunnel = tunnels[each.integer("tunnel", 0, len(tunnels) - 1)]
        reached = made.stands(each, partial(_inbound, entry, tunnel))
        assert isinstance(reached, InboundTunnel), "what was made"
        reached.preface = each.blob("preface", MOST_PREFACE_BYTES)
        dial = Dial.from_state(plane.delivery.dialler, each.value("dial"), sockets.take(), reached)
        each.done()
        reached.built(attempt=dial)
        made.dials.append((dial, reached))
    for at in fields.items("sought", MOST):
        if not isinstance(at, int) or not 0 <= at < len(tunnels):
            raise fields.refuse("sought", "it names a tunnel that is not there")
        made.new.append(InboundTunnel(entry, tunnels[at], tunnels[at].head))
    return made


def _inbound(entry: InboundLink, tunnel: Tunnel, live: Live) -> InboundTunnel:
    facts = live.connection
    assert facts is not None, "that of an inbound one"
    if live.direction is not Direction.INBOUND or live.pod != of_pod(entry):
        raise BadUnit("a tunnel to another pod than the connection that carries it")
    # What policy judges is what was proven, and by whom.
    if facts.identity != entry.link.peer or facts.identity is None or facts.source != entry.peer:
        raise BadUnit("a tunnel of somebody else than the peer of the connection that carries it")
    return InboundTunnel(entry, tunnel, tunnel.head)
