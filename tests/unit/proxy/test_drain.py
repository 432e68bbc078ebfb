"""How a worker stops: what was accepted is served, what is new goes elsewhere, and the deadline is an end."""

from __future__ import annotations

import socket

import pytest

from tests.support.told_worker import ToldWorker
from tests.support.two_nodes import SERVER, World, ended, exchange


def drain(told: ToldWorker, deadline_s: float) -> None:
    told.driver.call(lambda: told.drain.start(deadline_s))


def connected(world: World) -> socket.socket:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    return app


def test_without_work_it_is_over_at_once(told: ToldWorker) -> None:
    drain(told, 60.0)
    assert told.ended == 1
    drain(told, 0.0)
    assert told.ended == 1, "and only once"


def test_a_live_connection_may_finish_and_is_the_last_thing(told: ToldWorker, world: World) -> None:
    app = connected(world)
    drain(told, 60.0)
    assert not told.ended
    assert exchange(app, b"still here") == b"still here"
    world.driver.until(lambda: told.ended == 1)
    assert "connection complete" in world.there.lines[0]


def test_peers_are_told_and_take_new_connections_elsewhere(told: ToldWorker, world: World) -> None:
    app = connected(world)
    ((_, old),) = world.driver.call(lambda: world.here.pool.links)  # type: ignore[misc]
    drain(told, 60.0)
    world.driver.until(lambda: not old.is_usable)
    assert exchange(world.connect()) == b"hello", "over another HBONE connection"
    app.close()
    world.driver.until(lambda: old not in [link for _, link in world.here.pool.links])


def test_an_idle_connection_of_a_peer_is_closed_in_order(told: ToldWorker, world: World) -> None:
    assert exchange(world.connect()) == b"hello"
    world.driver.until(lambda: not len(world.there.registry))
    assert len(world.here.pool.links) == 1 and not told.ended
    world.there.lines.clear()
    drain(told, 60.0)
    world.driver.until(lambda: told.ended == 1)
    world.driver.until(lambda: not world.here.pool.links)
    assert not world.there.lines, "nothing went wrong"


def test_its_own_connections_to_peers_end_with_their_tunnels(world: World) -> None:
    told = ToldWorker(world.driver, world.here)
    app = connected(world)
    drain(told, 60.0)
    assert exchange(app, b"still here") == b"still here"
    world.driver.until(lambda: told.ended == 1 and not world.here.pool.links)
    told.close()


def test_a_connection_that_was_accepted_is_not_thrown_away_in_its_handshake(
    told: ToldWorker, world: World
) -> None:
    with socket.create_connection((SERVER, 15008)):
        world.driver.until(lambda: world.there.inbound.held == 1)
        drain(told, 60.0)
        world.driver.call(lambda: None)
        assert not told.ended, "its client may still ask for something"
    world.driver.until(lambda: told.ended == 1)


def test_the_deadline_cuts_what_is_left_and_says_why(told: ToldWorker, world: World) -> None:
    app = connected(world)
    drain(told, 60.0)
    world.driver.skew_s = 59.0
    world.driver.call(lambda: None)
    app.sendall(b"y")
    assert app.recv(1) == b"y" and not told.ended
    world.driver.skew_s = 61.0
    world.driver.until(lambda: told.ended == 1)
    assert ended(app)
    reason = "the agent stopped and its drain deadline of 60 s passed"
    assert f"DRAINED: {reason}" in world.there.lines[0]
    assert (
        f"the server's proxy ended the connection (INTERNAL_ERROR); it said: {reason}" in world.here.lines[0]
    )
    world.driver.skew_s = 200.0
    world.driver.call(lambda: None)
    assert told.ended == 1


@pytest.mark.parametrize(("second_s", "ends_at_s"), [(20.0, 21.0), (500.0, 61.0)], ids=["sooner", "later"])
def test_a_second_order_may_only_shorten_the_time_left(
    told: ToldWorker, world: World, second_s: float, ends_at_s: float
) -> None:
    app = connected(world)
    drain(told, 60.0)
    drain(told, second_s)
    world.driver.skew_s = ends_at_s - 2
    world.driver.call(lambda: None)
    assert not told.ended
    world.driver.skew_s = ends_at_s
    world.driver.until(lambda: told.ended == 1)
    app.close()
