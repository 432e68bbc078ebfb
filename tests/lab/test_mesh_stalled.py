"""Connections whose reader, or whose server, does not read: every other connection of the two pods goes on."""

from __future__ import annotations

import pytest

from tests.support.labmesh import World
from tests.support.labstalled import ECHO_PORT, Stalled, echoes
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", autouse=True)
def _echo_servers(world: World) -> None:
    for server in ("server-a", "server-b"):
        world.serve(server, "echo", ECHO_PORT)


def held(world: World, node: str, field: str) -> int:
    """What `ztun tunnels` of a node says, over all connections."""
    return sum(row[field] for row in world.tunnels(node))


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("server", ["server-a", "server-b"])
def test_twelve_connections_that_nobody_reads_stop_no_other(
    world: World, server: str, direction: str
) -> None:
    with Stalled(world, "client-a", server) as stalled:
        with world.dial("client-a", world.address(server), ECHO_PORT) as older:
            echoes(older)
            stalled.open(direction, 12)
            echoes(older)
            for _ in range(4):  # so that both workers have had one
                with world.dial("client-a", world.address(server), ECHO_PORT) as newer:
                    echoes(newer)
        there = f"node-{server[-1]}"
        reads, sends = ("node-a", there) if direction == "down" else (there, "node-a")
        assert held(world, reads, "unread_bytes") > 0 and held(world, sends, "waiting") == 12
    until(
        lambda: not held(world, reads, "unread_bytes") and not held(world, sends, "waiting"),
        "all is let go of",
    )


def test_forty_connections_that_nobody_reads_stop_no_other(world: World) -> None:
    with Stalled(world, "client-a", "server-b") as stalled:
        stalled.open("down", 40)
        for _ in range(4):
            with world.dial("client-a", world.address("server-b"), ECHO_PORT) as newer:
                echoes(newer)
