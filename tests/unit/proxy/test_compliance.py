"""`--compliance-policy=pqc` between two nodes: who has no X25519MLKEM768 is refused, and why is counted and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.certs import credentials
from tests.support.datapath import DataPath
from tests.support.two_nodes import World, ended, exchange, running


@pytest.fixture
def world() -> Iterator[World]:
    with running(compliance_policy="pqc") as made:
        yield made


def classical(world: World, plane: DataPath, pod: object) -> None:
    """The pod of a node whose proxy has another key exchange only."""
    made = replace(credentials(world.ca, str(pod.identity)), group="X25519")  # type: ignore[attr-defined]
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
