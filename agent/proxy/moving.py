"""Everything live of a data plane, as units that its successor goes on with; and what of it cannot travel.

`movables` is asked again and again while connections are handed over: what was on its way to somewhere the first time
has arrived by the next. Nothing is kept between two times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agent.model.unit import BadUnit, Unit
from agent.net.plain_relay import PlainRelay
from agent.proxy import moving_relays, moving_waits
from agent.proxy.captured import CapturedLife
from agent.proxy.life import Life
from agent.proxy.local import HandedOver
from agent.proxy.movable import Immovable, Movable, Sockets, StaysHere, Thawed
from agent.proxy.moving_links import CLIENT, SERVER, links, thawed_link
from agent.proxy.moving_relays import MovableRelay, thawed_relay
from agent.proxy.moving_waits import CALLER, SEEKING, MovableCaller, MovableSeeking
from agent.proxy.outbound import OutboundConnection
from agent.proxy.registry import Live
from agent.proxy.seeker import Wait

if TYPE_CHECKING:
    from agent.proxy.dataplane import DataPlane

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
    if unit.kind == moving_relays.KIND:
        return thawed_relay(plane, unit, fds)
    if unit.kind in (CLIENT, SERVER):
        return thawed_link(plane, unit, fds)
    if unit.kind in (SEEKING, CALLER):
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
    for caller in plane.inbound.lobby.listening_to:
        yield MovableCaller(plane, caller)


def _one(plane: DataPlane, live: Live) -> Movable | Immovable | None:
    life = live.owner
    what = f"{live.direction.value} connection of {live.source} to {live.original}"
    if not isinstance(life, Life):
        return Immovable(what, "its client has not said yet what it wants (SOCKS5)")
    if life.is_over:
        return None
    relay = life.relay
    if isinstance(relay, PlainRelay) and isinstance(life, CapturedLife):
        return Immovable(what, relay.stays) if relay.stays else MovableRelay(plane, life, relay)
    if relay is not None:
        return None  # it goes with the connection of its tunnel, or stays with it
    if isinstance(life, CapturedLife) and life.client is None:
        return Immovable(what, "its SYN is held: who serves its listener next goes on with it")
    # No subclass: a client of SOCKS5 waits for an answer of that protocol.
    if type(life) is OutboundConnection and isinstance(life.attempt, Wait):
        return MovableSeeking(plane, life)
    return Immovable(what, "its other end is not reached yet")
