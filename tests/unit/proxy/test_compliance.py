"""`--compliance-policy=pqc` between two nodes: who has no X25519MLKEM768 is refused, and why is counted and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.model.unit import BadUnit
from agent.proxy.moving import movables
from tests.support.certs import credentials
from tests.support.datapath import DataPath
from tests.support.moves import Handing, move, successor
from tests.support.two_nodes import World, ended, exchange, running


@pytest.fixture
def world() -> Iterator[World]:
    with running(compliance_policy="pqc") as made:
        yield made


def classical(world: World, plane: DataPath, pod: object) -> None:
    """The pod of a node whose proxy has another key exchange only."""
    # As OpenSSL names it after the handshake.
    made = replace(credentials(world.ca, str(pod.identity)), group="x25519")  # type: ignore[attr-defined]
    world.driver.call(lambda: plane.secrets._by_identity.__setitem__(made.identity, made))


def failures(plane: DataPath) -> dict[tuple[str, ...], float]:
    found = plane.metrics.figures.items()
    return {
        tuple(labels): value for name, labels, value in found if name == "ztun_handshake_failures" and value
    }


def test_two_that_have_it_talk_by_it(world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    [(_, link)] = world.here.pool.links
    assert link.secured is not None and link.secured.group == "X25519MLKEM768"
    assert exchange(app, b"y") == b"y"


def test_a_client_that_has_it_not_is_refused_and_counted(world: World) -> None:
    classical(world, world.here, world.client)
    assert ended(world.connect())
    world.driver.until(lambda: failures(world.there) == {("server", "key_exchange"): 1})
    assert not world.seen


def test_a_server_that_has_it_not_is_refused_counted_and_said(world: World) -> None:
    classical(world, world.there, world.server)
    assert ended(world.connect())
    world.driver.until(lambda: failures(world.here) == {("client", "key_exchange"): 1})
    assert "--compliance-policy allows the key exchange X25519MLKEM768 alone" in world.here.lines[0]
    assert not world.seen


@pytest.mark.parametrize("end", ["client", "server"])
def test_what_began_by_another_key_exchange_stays_with_the_worker_that_had_it(end: str) -> None:
    """A successor with the policy takes no connection that its own handshake would not have made."""
    with running() as world:
        classical(world, world.here, world.client)
        app = world.connect()
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        giver = world.here if end == "client" else world.there
        taker = successor(world, giver, compliance_policy="pqc")

        def offer() -> str:
            (link,) = movables(giver)
            with pytest.raises(BadUnit) as refused:
                Handing(taker, link)
            link.take_back()
            return str(refused.value)

        assert "alone; this handshake has used x25519" in world.driver.call(offer)
        assert not taker.pool.links and not taker.inbound.links and not len(taker.registry)
        assert exchange(app, b"y") == b"y", "it drains where it is"


@pytest.mark.parametrize("end", ["client", "server"])
def test_what_began_by_the_right_one_moves(world: World, end: str) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    giver = world.here if end == "client" else world.there
    assert move(world, giver, successor(world, giver, compliance_policy="pqc")) == [f"{end} link"]
    assert exchange(app, b"y") == b"y"
