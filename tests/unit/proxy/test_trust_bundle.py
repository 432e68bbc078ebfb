"""The anchors in a bundle change while nodes are at work: new handshakes go by them, live connections go on.

As upstream does. Whoever must go at once, too, is on a revocation list, or denied by a policy.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.certs import TestCA, credentials
from tests.support.datapath import DataPath
from tests.support.told_worker import ToldWorker, secret
from tests.support.two_nodes import World, ended, exchange

OLD, NEW = TestCA(name="old root"), TestCA(name="new root")
ONE_EACH = pytest.mark.parametrize(
    "world", [{"pool_max_streams": "1", "pool_idle_s": "1"}], indirect=True, ids=["one-tunnel-each"]
)


class Bundles:
    """Says by whom each node's pod is certified, and whom it trusts, as control does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._workers = {plane: ToldWorker(world.driver, plane) for plane in (world.here, world.there)}

    def say(self, plane: DataPath, ca: TestCA, *trusted: TestCA) -> None:
        pod = self._world.client if plane is self._world.here else self._world.server
        self._workers[plane].tell(secret(credentials(ca, str(pod.identity), roots=trusted)))

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


@pytest.fixture
def bundles(world: World) -> Iterator[Bundles]:
    made = Bundles(world)
    try:
        for plane in (world.here, world.there):
            made.say(plane, OLD, OLD)
        yield made
    finally:
        made.close()


def connected(world: World) -> socket.socket:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    return app


def refusals(plane: DataPath) -> dict[tuple[str, ...], float]:
    found = plane.metrics.figures.items()
    return {
        tuple(labels): value for name, labels, value in found if name == "ztun_handshake_failures" and value
    }


@ONE_EACH
def test_a_mesh_goes_over_to_another_root_without_a_connection_lost(world: World, bundles: Bundles) -> None:
    app = connected(world)
    steps: tuple[Callable[[], None], ...] = (
        lambda: bundles.say(world.here, OLD, OLD, NEW),
        lambda: bundles.say(world.there, OLD, OLD, NEW),
        lambda: bundles.say(world.here, NEW, OLD, NEW),
        lambda: bundles.say(world.there, NEW, OLD, NEW),
        lambda: bundles.say(world.here, NEW, NEW),
        lambda: bundles.say(world.there, NEW, NEW),
    )
    for step in steps:
        step()
        assert exchange(world.connect()) == b"hello"
        app.sendall(b"y")
        assert app.recv(1) == b"y"
        # What the other one used is let go of, so that the next one needs a handshake.
        world.driver.skew_s += 1.5
        world.driver.until(lambda: len(world.here.pool.links) == 1)
    assert not refusals(world.there) and not refusals(world.here)
    assert exchange(app) == b"hello"


@ONE_EACH
def test_an_anchor_that_is_taken_away_counts_for_new_handshakes_alone(world: World, bundles: Bundles) -> None:
    app = connected(world)
    bundles.say(world.there, NEW, NEW)
    assert ended(world.connect())
    app.sendall(b"y")
    assert app.recv(1) == b"y"
    assert exchange(app) == b"hello"


def test_before_its_anchor_is_there_nobody_is_let_in(world: World, bundles: Bundles) -> None:
    bundles.say(world.here, NEW, OLD, NEW)
    assert ended(world.connect())
    world.driver.until(lambda: refusals(world.there) == {("server", "untrusted"): 1})
    bundles.say(world.there, OLD, OLD, NEW)
    assert exchange(world.connect()) == b"hello"
