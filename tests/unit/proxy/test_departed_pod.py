"""A pod that leaves the mesh: nothing of it lives on in the worker, whatever state it is in, and nothing else ends."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from agent import channel
from agent.channel import Message
from tests.support import mesh
from tests.support.datapath import DataPath, stream_pair
from tests.support.descriptors import open_descriptors
from tests.support.loopback import ours
from tests.support.netpair import deaf
from tests.support.told_worker import orders_of
from tests.support.two_nodes import CLIENT, SERVER, World, ended

OTHER, DEAF, STRANGER = ours("1.2"), ours("4.1"), ours("5.5")
Row = tuple[str, str, str, tuple[str, ...]]
CLIENT_ROW: Row = ("apps", "client", "client", (CLIENT,))
OTHER_ROW: Row = ("apps", "other", "other", (OTHER,))
SERVER_ROW: Row = ("apps", "server", "server", (SERVER,))


def orders(world: World, plane: DataPath, *rows: Row) -> Callable[..., None]:
    """Has the control process name the captured pods: first these, then whatever the result is called with."""
    told = orders_of(plane)
    replies: list[Message] = []

    def name(*pods: Row) -> None:
        world.driver.call(lambda: told.carry_out(channel.Pods(pods), (), replies.append))

    name(*rows)
    return name


def alive(app: socket.socket) -> bool:
    app.sendall(b"x")
    return app.recv(1) == b"x"


def test_a_source_that_leaves_loses_its_connections_and_those_under_way(world: World) -> None:
    other = mesh.workload("other", OTHER, service_account="other")
    world.driver.call(lambda: (world.here.know(other), world.there.know(other), world.here.add_pod(other)))
    name = orders(world, world.here, CLIENT_ROW, OTHER_ROW)
    before = open_descriptors()
    with deaf(DEAF, 8080), deaf(DEAF, 15008):
        far = mesh.workload("far", DEAF, service_account="server")
        tunnel = world.connect()
        assert alive(tunnel)
        dialling = world.connect(f"{DEAF}:8080")  # plain: the mesh does not know it yet
        world.driver.call(lambda: world.here.know(far))
        hbone = world.connect(f"{DEAF}:8081")  # its HBONE connection is being dialled
        kept = world.driver.call(lambda: world.here.capture(OTHER, mesh.at(f"{SERVER}:8080")))
        assert isinstance(kept, socket.socket)
        kept.settimeout(5)
        assert alive(kept)
        assert len(world.here.registry) == 4
        name(OTHER_ROW)
        for app in (tunnel, dialling, hbone):
            assert ended(app)
        world.driver.until(lambda: len(world.here.registry) == 1)
        assert world.driver.call(lambda: len(world.here.pool.links)) == 1
        assert sum("the pod left the mesh" in line for line in world.here.lines) == 3
        assert alive(kept)
        kept.close()
    world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))
    world.driver.call(lambda: [link.abort() for _, link in world.here.pool.links])
    world.driver.until(lambda: open_descriptors() == before)


def test_a_destination_that_leaves_loses_tunnels_plaintext_and_handshakes(world: World) -> None:
    name = orders(world, world.there, SERVER_ROW)
    tunnel = world.connect()
    assert alive(tunnel)
    plain, captured = stream_pair(STRANGER)
    captured.setblocking(False)
    peer = mesh.at(f"{STRANGER}:{plain.getsockname()[1]}")
    world.driver.call(lambda: world.there.inbound_plain.accepted(captured, peer, mesh.at(f"{SERVER}:8080")))
    plain.settimeout(5)
    assert alive(plain)
    silent = socket.create_connection((SERVER, 15008))
    world.driver.until(lambda: world.there.inbound.held == 2)
    name()
    world.driver.until(lambda: not world.there.inbound.held and not len(world.there.registry))
    for app in (tunnel, plain, silent):
        app.settimeout(5)
        assert ended(app)
    assert ended(world.connect()), "and there is no way back in"


@pytest.mark.parametrize(
    ("after", "survives"),
    [
        ([("apps", "client", "client", (CLIENT, ours("1.9")))], True),
        ([("apps", "heir", "client", (CLIENT,))], False),
        ([("apps", "client", "someone-else", (CLIENT,))], False),
    ],
    ids=["it gets one more address", "another pod gets its address", "another identity gets its address"],
)
def test_connections_belong_to_a_pod_not_to_its_address(
    world: World, after: list[Row], survives: bool
) -> None:
    name = orders(world, world.here, CLIENT_ROW)
    app = world.connect()
    assert alive(app)
    name(*after)
    if survives:
        assert alive(app)
        app.close()
    else:
        assert ended(app)
