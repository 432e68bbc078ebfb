"""Applications that take connections meant for others, and want to be told by PROXY headers for whom and from whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.model.workload import ApplicationTunnel, TunnelToApplication
from agent.wire.proxy_protocol import header
from tests.support import mesh
from tests.support.datapath import stream_pair
from tests.support.loopback import ours
from tests.support.two_nodes import CLIENT, SERVER, World, ended, exchange

OTHER = ours("2.7")
"""What the client dials: the server stands in front of it."""


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Parametrized indirectly with the tunnel of the server's application."""
    tunnel = getattr(request, "param", ApplicationTunnel(TunnelToApplication.PROXY, 8080))
    made = World()
    made.server = replace(made.server, application_tunnel=tunnel)
    made.web = replace(made.web, waypoint=mesh.gateway(SERVER))
    try:
        made.start()
        made.driver.call(lambda: [plane.know(behind()) for plane in (made.here, made.there)])
        yield made
    finally:
        made.close()


def behind() -> object:
    return mesh.workload("behind", OTHER, waypoint=mesh.gateway(SERVER))


def test_the_header_says_who_wanted_what_in_front_of_the_first_byte(world: World) -> None:
    app = world.connect(f"{OTHER}:99")
    answer = exchange(app)
    world.driver.until(lambda: bool(world.there.lines))
    source = world.there.lines[0].partition("src.addr=")[2].split()[0]
    assert answer == header(mesh.at(source), mesh.at(f"{OTHER}:99"), mesh.identity("client")) + b"hello"
    assert source.startswith(CLIENT) and world.seen == [CLIENT]


@pytest.mark.parametrize("world", [ApplicationTunnel(TunnelToApplication.NONE, 8080)], indirect=True)
def test_one_without_headers_gets_the_bytes_alone(world: World) -> None:
    assert exchange(world.connect(f"{OTHER}:99")) == b"hello"


@pytest.mark.parametrize(
    "world",
    [ApplicationTunnel(TunnelToApplication.PROXY, 8080), ApplicationTunnel(TunnelToApplication.PROXY, None)],
    indirect=True,
    ids=["one port", "every port"],
)
def test_nobody_speaks_to_that_port_past_the_agent(world: World) -> None:
    """Who does could say in a header to be anybody."""
    application, captured = stream_pair(ours("5.5"))
    captured.setblocking(False)
    peer = mesh.at(f"{ours('5.5')}:{application.getsockname()[1]}")
    local = mesh.at(f"{SERVER}:8080")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, local))
    application.settimeout(5)
    assert ended(application)
    assert world.seen == []
    assert "takes PROXY headers: only connections by HBONE" in world.there.lines[0]


@pytest.mark.parametrize(
    "world", [ApplicationTunnel(TunnelToApplication.PROXY, 8099)], indirect=True, ids=["nobody listens"]
)
def test_one_that_is_not_there_is_refused(world: World) -> None:
    assert ended(world.connect(f"{OTHER}:99"))
    world.driver.until(lambda: bool(world.here.lines))
    assert "503" in world.here.lines[0]
