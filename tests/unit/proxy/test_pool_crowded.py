"""Connections whose peer's window is held by tunnels that are not read: what the pool puts on them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.proxy.pool import CROWDED_LINKS
from tests.support.pool import WINDOW_BYTES, Connection, World

LEAST_HELD_BYTES = WINDOW_BYTES * 3 // 4


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.close()


def crowded_of(world: World, tunnels: int = 1) -> Connection:
    world.want(tunnels)
    made = world.connect()
    made.crowd()
    return made


def test_a_crowded_connection_gets_no_new_tunnels_until_it_recovers(world: World) -> None:
    crowded = crowded_of(world)
    world.want(3)
    assert len(world.dials) == 1 and crowded.open_streams == 1
    second = world.connect()
    assert (crowded.open_streams, second.open_streams) == (1, 3)
    world.want()
    assert second.open_streams == 4 and not world.dials, "one further connection is enough"
    crowded.recover()
    world.want()
    assert crowded.open_streams == 2


def test_tunnels_that_end_on_a_crowded_connection_bring_it_none_of_those_who_wait(world: World) -> None:
    crowded = crowded_of(world, tunnels=2)
    world.want()
    world.end(world.tunnels[1])
    assert crowded.open_streams == 1
    assert world.connect().open_streams == 1


def test_a_crowded_connection_is_better_than_none(world: World) -> None:
    crowded = crowded_of(world)
    world.want(2)
    world.dials.pop().fail(ConnectionRefusedError())
    assert crowded.open_streams == 3 and not world.refusals


def test_crowded_connections_are_not_added_to_without_end(world: World) -> None:
    for number in range(CROWDED_LINKS):
        world.want()
        link = world.connect()
        link.crowd(LEAST_HELD_BYTES + number % 7)
    world.want()
    assert not world.dials
    (chosen,) = [link for link in world.links if link.open_streams == 2]
    left = [link.link.standstill.window_left_bytes for link in world.links]
    assert chosen.link.standstill.window_left_bytes == max(left) == min(left) + 6
