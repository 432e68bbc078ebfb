"""Whoever leaves the pool, a pod or one who waits, takes along what nobody else needs and nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from agent.model.address import parse_ip
from agent.model.outcome import Outcome
from tests.support.pool import World


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.close()


def test_a_pod_that_leaves_loses_its_connections_and_waiters(world: World) -> None:
    """Linked, in handshake, being dialled, waiting, asked on a connection that others used before: all of it."""
    gone, other = "10.0.0.1", "10.0.0.9"
    world.want(client=gone)
    linked = world.connect(limit=2)
    linked.answer()
    world.want(client=gone)  # asked on the connection, and may try another
    world.want(3, client=gone)
    shaking = world.dialled()
    dialling = world.dials.pop()
    world.want(client=other)
    kept = world.connect()
    world.pool.close_source(frozenset([parse_ip(gone)]))
    assert not linked.is_usable and not shaking.is_usable and dialling.is_cancelled
    assert [refusal.outcome for refusal in world.refusals] == [Outcome.POD_REMOVED] * 4
    assert all(dial.is_cancelled for dial in world.dials), "nothing is dialled in its name any more"
    assert kept.is_usable and [link for _, link in world.pool.links] == [kept.link]


def test_a_dial_that_nobody_waits_for_is_given_up(world: World) -> None:
    first, second = world.want(2)
    first.cancel()
    assert not world.dials[0].is_cancelled
    second.cancel()
    assert world.dials.pop().is_cancelled and not world.refusals
    world.want()
    world.connect().answer()
    assert len(world.tunnels) == 1, "the next one may dial again"


def test_a_handshake_that_nobody_waits_for_is_given_up(world: World) -> None:
    (waiter,) = world.want()
    link = world.dialled()
    waiter.cancel()
    assert not link.is_usable and not world.pool.links and not world.refusals


def test_who_leaves_takes_one_dial_too_many_along_and_no_more() -> None:
    world = World(streams_limit=2)
    waiters = world.want(5)
    assert len(world.dials) == 3
    waiters[1].cancel()
    assert [dial.is_cancelled for dial in world.dials] == [False, False, True]
    waiters[1].cancel()  # again: nothing to do
    assert [dial.is_cancelled for dial in world.dials] == [False, False, True]


def test_who_leaves_resets_the_tunnel_and_leaves_the_connection_to_others(world: World) -> None:
    first, second = world.want(2)
    link = world.connect()
    first.cancel()
    world.settle()
    assert len(link.asked) == 1 and link.is_usable
    link.answer()
    assert len(world.tunnels) == 1 and not world.refusals
    second.cancel()  # answered: the tunnel is its owner's
    assert link.is_usable
