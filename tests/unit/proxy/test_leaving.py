"""Clients and peers that leave while their connection is under way: what was begun for them ends at once.

Nothing here ends by a time-out: those are a minute. What is left is counted in descriptors.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from agent.net.farewell import close
from tests.support import mesh
from tests.support.datapath import stream_pair
from tests.support.descriptors import open_descriptors
from tests.support.loopback import ours
from tests.support.netpair import deaf
from tests.support.two_nodes import CLIENT, SERVER, World, running

DEAF = ours("4.1")


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    options = getattr(request, "param", {})
    with running(connect_timeout_s="60", handshake_timeout_s="60", **options) as made:
        yield made


def descriptors(world: World) -> int:
    count = world.driver.call(open_descriptors)
    assert isinstance(count, int)
    return count


def begin(world: World, start: Callable[[], socket.socket]) -> tuple[socket.socket, int]:
    """A connection under way, and how many descriptors there were before it."""
    before = descriptors(world)
    app = start()
    world.driver.until(lambda: len(world.here.registry) + len(world.there.registry) > 0)
    return app, before


def leave(world: World, app: socket.socket, before: int) -> None:
    """The client resets: soon everything is as it was before."""
    close(app, reset=True)
    world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))
    world.driver.until(lambda: open_descriptors() == before)


def test_a_dial_ends_with_its_client(world: World) -> None:
    with deaf(DEAF, 8080):
        app, before = begin(world, lambda: world.connect(f"{DEAF}:8080"))
        leave(world, app, before)
    assert "the client gave up before it was connected" in world.here.lines[0]


def test_the_dial_of_a_tunnel_ends_with_the_last_client_that_waits_for_it(world: World) -> None:
    far = mesh.workload("far", DEAF, service_account="server")
    world.driver.call(lambda: world.here.know(far))
    with deaf(DEAF, 15008):
        first, before = begin(world, lambda: world.connect(f"{DEAF}:8080"))
        second = world.connect(f"{DEAF}:8080")
        close(first, reset=True)
        world.driver.until(lambda: len(world.here.registry) == 1)
        assert descriptors(world) == before + 3, "captured, its application's end, and the dial"
        leave(world, second, before)


def test_a_handshake_ends_with_the_last_client_that_waits_for_it(world: World) -> None:
    far = mesh.workload("far", DEAF, service_account="server")
    world.driver.call(lambda: world.here.know(far))
    with socket.create_server((DEAF, 15008)) as silent:
        app, before = begin(world, lambda: world.connect(f"{DEAF}:8080"))
        with silent.accept()[0] as peer:
            peer.settimeout(5)
            assert peer.recv(3) == b"\x16\x03\x01", "a ClientHello"
            leave(world, app, before + 1)
            with pytest.raises(ConnectionResetError):
                while peer.recv(4096):
                    pass


def test_a_client_that_leaves_takes_back_its_connect_and_ends_the_dial_at_the_other_node(
    world: World,
) -> None:
    ready = world.connect()  # so that the HBONE connection is there and stays
    ready.sendall(b"x")
    assert ready.recv(1) == b"x"
    with deaf(SERVER, 8081):
        before = descriptors(world)
        app = world.connect(f"{SERVER}:8081")
        world.driver.until(lambda: len(world.there.registry) == 2)
        close(app, reset=True)
        world.driver.until(lambda: len(world.here.registry) == len(world.there.registry) == 1)
        assert descriptors(world) == before
    for lines in (world.here.lines, world.there.lines):
        assert "the client gave up before it was connected" in lines[0]
    ready.sendall(b"y")
    assert ready.recv(1) == b"y", "others on the same connection do not notice"
    ready.close()


def test_a_lost_hbone_connection_ends_the_dials_made_for_it(world: World) -> None:
    with deaf(SERVER, 8081):
        app, before = begin(world, lambda: world.connect(f"{SERVER}:8081"))
        world.driver.until(lambda: len(world.there.registry) == 1)
        world.driver.call(lambda: [link.abort() for _, link in world.here.pool.links])
        world.driver.until(lambda: not len(world.there.registry))
        leave(world, app, before)


def test_a_dial_to_the_application_ends_with_its_plaintext_client(world: World) -> None:
    def start() -> socket.socket:
        application, captured = stream_pair(ours("5.5"))
        captured.setblocking(False)
        peer = mesh.at(f"{ours('5.5')}:{application.getsockname()[1]}")
        arrived = world.there.inbound_plain.accepted
        world.driver.call(lambda: arrived(captured, peer, mesh.at(f"{SERVER}:8081")))
        return application

    with deaf(SERVER, 8081):
        app, before = begin(world, start)
        leave(world, app, before)


@pytest.mark.parametrize("world", [{"local_path": "handover"}], indirect=True)
def test_a_hand_over_ends_with_its_client_at_both_ends(world: World) -> None:
    world.driver.call(lambda: world.there.add_pod(world.client, listening=False))

    def start() -> socket.socket:
        app = world.driver.call(lambda: world.there.capture(CLIENT, mesh.at(f"{SERVER}:8081")))
        assert isinstance(app, socket.socket)
        return app

    with deaf(SERVER, 8081):
        app, before = begin(world, start)
        leave(world, app, before)
    assert len(world.there.lines) == 2


def test_a_client_that_only_ends_its_direction_is_still_connected_and_answered(world: World) -> None:
    far = mesh.workload("far", DEAF, service_account="server")

    def move() -> None:
        world.here.know(far)
        world.there.know(far)
        world.there.add_pod(far, listening=False)

    world.driver.call(move)
    with socket.create_server((DEAF, 8080)) as server, socket.create_server((DEAF, 15008)) as waiting:
        app = world.connect(f"{DEAF}:8080")
        app.shutdown(socket.SHUT_WR)
        hbone, _ = waiting.accept()  # nobody shakes hands yet
        hbone.setblocking(False)
        peer, local = mesh.at(f"{CLIENT}:{hbone.getpeername()[1]}"), mesh.at(f"{DEAF}:15008")
        world.driver.call(lambda: None)
        world.driver.call(lambda: world.there.inbound.accepted(hbone, peer, local))
        served, _ = server.accept()
        assert served.recv(1) == b""
        served.sendall(b"220 hello")
        served.close()
        assert app.recv(100) == b"220 hello" and app.recv(1) == b""
        app.close()


def test_an_edge_of_the_descriptors_former_owner_is_not_taken_for_a_reset(world: World) -> None:
    """Two sockets are ready in one round; the first's handler closes the second, and its number is a client's."""
    application, captured = stream_pair(CLIENT)
    (one, other), (doomed, far) = socket.socketpair(), socket.socketpair()
    peer = mesh.at(f"{CLIENT}:{application.getsockname()[1]}")

    def reuse(mask: int) -> None:
        loop, number = world.here.loop, doomed.detach()
        loop.forget(one.fileno())
        loop.forget(number)
        os.dup2(captured.fileno(), number)
        captured.close()
        world.here.outbound.accepted(socket.socket(fileno=number), peer, mesh.at(f"{DEAF}:8080"))

    def begin() -> None:
        world.here.loop.watch(one.fileno(), reuse, mask=select.EPOLLIN)
        world.here.loop.watch(doomed.fileno(), lambda mask: None, mask=select.EPOLLIN)
        other.send(b"first")
        far.close()  # an end and a reset, both

    with application, one, other, deaf(DEAF, 8080):
        captured.setblocking(False)
        world.driver.call(begin)
        world.driver.until(lambda: len(world.here.registry) == 1)
        world.driver.call(lambda: None)
        assert world.driver.call(lambda: len(world.here.registry)) == 1 and not world.here.lines
