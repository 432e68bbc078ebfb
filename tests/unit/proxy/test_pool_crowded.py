"""Connections whose peer's window is held by tunnels that are not read: what the pool puts on them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.net.tunnel import Standstill
from agent.proxy.pool import CROWDED_LINKS
from tests.support.pool import World, key


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.loop.close()


def test_a_crowded_connection_gets_no_new_tunnels_until_it_recovers(world: World) -> None:
    world.want()
    crowded = world.connect()
    crowded.is_crowded = True
    world.want(3)
    assert len(world.dials) == 1 and crowded.open_streams == 1
    second = world.connect()
    assert (crowded.open_streams, second.open_streams) == (1, 3)
    world.want()
    assert second.open_streams == 4 and not world.dials, "one further connection is enough"
    crowded.is_crowded = False
    world.want()
    assert crowded.open_streams == 2


def test_tunnels_that_end_on_a_crowded_connection_bring_it_none_of_those_who_wait(world: World) -> None:
    world.want()
    crowded = world.connect()
    crowded.is_crowded = True
    world.want()
    crowded.events.available(crowded)
    assert crowded.open_streams == 1
    assert world.connect().open_streams == 1


def test_a_crowded_connection_is_better_than_none(world: World) -> None:
    world.want()
    crowded = world.connect()
    crowded.is_crowded = True
    world.want(2)
    world.dials.pop().owner.failed(key().target, ConnectionRefusedError())
    assert crowded.open_streams == 3 and not world.refusals


def test_crowded_connections_are_not_added_to_without_end(world: World) -> None:
    for number in range(CROWDED_LINKS):
        world.want()
        link = world.connect()
        link.is_crowded, link.standstill = True, Standstill(0, 0, number % 7)
    world.want()
    assert not world.dials
    (chosen,) = [link for link in world.links if link.open_streams == 2]
    assert chosen.standstill.window_left_bytes == 6
