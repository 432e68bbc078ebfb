"""Everything live of a data plane, as units that its successor goes on with; and what of it cannot travel.

`movables` is asked again and again while connections are handed over: what was on its way to somewhere the first time
has arrived by the next. Nothing is kept between two times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agent.model.unit import BadUnit, StaysHere, Unit
from agent.net.dial import Dial
from agent.net.plain_relay import PlainRelay
from agent.proxy import moving_waits
from agent.proxy.captured import CapturedLife
from agent.proxy.far_network import Inner
from agent.proxy.inbound import InboundTunnel
from agent.proxy.inbound_plain import PlainConnection
from agent.proxy.life import Life
from agent.proxy.local import Approach, HandedOver
from agent.proxy.movable import Immovable, Movable, Sockets, Thawed
from agent.proxy.moving_links import CLIENT, SERVER, links, thawed_link
from agent.proxy.moving_plain import DIAL, RELAY, MovablePlain, thawed_plain
from agent.proxy.moving_waits import ASKING, CALLER, SEEKING, MovableAsking, MovableCaller, MovableSeeking
from agent.proxy.outbound import OutboundConnection
from agent.proxy.pool_waiter import Waiter
from agent.proxy.registry import Live
from agent.proxy.seeker import Wait

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

ONES_OWN = (OutboundConnection, PlainConnection)
"""No subclass: a client of SOCKS5 waits for an answer of that protocol."""
__all__ = ["Immovable", "Movable", "StaysHere", "Thawed", "immovable", "movables", "thaw"]


def movables(plane: DataPlane) -> Iterator[Movable]:
    """What may be frozen now. Where the loop goes on in between, `freeze` may answer that it no longer can be."""
    return (each for each in _everything(plane) if not isinstance(each, Immovable))


def immovable(plane: DataPlane) -> Iterator[Immovable]:
    """What cannot be frozen as it is now."""
    return (each for each in _everything(plane) if isinstance(each, Immovable))


def thaw(plane: DataPlane, unit: Unit, fds: Sequence[int]) -> Thawed:
    """What `freeze` gave elsewhere, built here and not started. The descriptors are this call's.

    Raises BadUnit where the state makes no sense here, and Refusal where this worker does not serve such a thing: the
    descriptors are closed then, which no peer sees while another process has them too.
    """
    if unit.kind in (RELAY, DIAL):
        return thawed_plain(plane, unit, fds)
    if unit.kind in (CLIENT, SERVER):
        return thawed_link(plane, unit, fds)
    if unit.kind in (ASKING, CALLER, SEEKING):
        return moving_waits.thawed(plane, unit, fds)
    Sockets(fds).close()
    raise BadUnit(f"a unit of the kind {unit.kind[:32]!r}, which this worker does not know")


def _everything(plane: DataPlane) -> Iterator[Movable | Immovable]:
    for live in plane.registry:
        # Of what is handed over inside the node both ends are registered, and travel as one.
        if not isinstance(live.owner, HandedOver):
            found = _one(plane, live)
            if found is not None:
                yield found
    for link in links(plane):
        why = link.stays
        yield Immovable(f"HBONE connection of {link.pod}", why) if why else link
    for inner in tuple(plane.far_networks.links):
        yield Immovable("HBONE connection into another network", inner.stays)
    for entry in tuple(plane.inbound.links):
        if entry.link.secured is None:
            yield Immovable(f"HBONE connection from {entry.peer}", entry.link.stays)
    for _ in range(plane.dns.connections):
        yield Immovable("connection of a pod to its name server", "what it asks is answered here")
    for caller in plane.inbound.lobby.callers:
        if caller.is_watched:
            yield MovableCaller(plane, caller)
        else:
            yield Immovable(f"HBONE connection from {caller.peer}", "its TLS handshake is next")


def _stays(live: Live, why: str) -> Immovable:
    return Immovable(f"{live.direction.value} connection of {live.source} to {live.original}", why)


def _one(plane: DataPlane, live: Live) -> Movable | Immovable | None:
    life = live.owner
    if not isinstance(life, Life):
        return _stays(live, "its client has not said yet what it wants (SOCKS5)")
    if life.is_over:
        return None
    relay = life.relay
    if isinstance(relay, PlainRelay) and isinstance(life, CapturedLife):
        return _stays(live, relay.stays) if relay.stays else MovablePlain(plane, life, relay)
    if relay is not None or isinstance(life, InboundTunnel):
        return None  # it goes with the connection of its tunnel, or stays with it
    if isinstance(life, CapturedLife) and life.client is None:
        return _stays(live, "its SYN is held: who serves its listener next goes on with it")
    attempt = life.attempt
    if isinstance(attempt, Dial) and isinstance(life, CapturedLife) and type(life) in ONES_OWN:
        return _stays(live, attempt.stays) if attempt.stays else MovablePlain(plane, life, attempt)
    if type(life) is OutboundConnection and isinstance(attempt, Wait):
        return MovableSeeking(plane, life)
    if type(life) is OutboundConnection and isinstance(attempt, Waiter):
        if attempt.is_on_its_way:
            return None  # it goes with the connection that it is asked for on
        return MovableAsking(plane, life, attempt)
    if isinstance(attempt, Inner):
        return _stays(live, "it is on its way into another network")
    if isinstance(attempt, Approach):
        return _stays(live, "it is on its way by the host")
    return _stays(live, "its client waits for an answer of SOCKS5")
