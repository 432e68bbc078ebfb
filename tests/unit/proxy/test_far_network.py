"""Another network is reached through its gateway, which carries what it cannot read; the far end proves who it is."""

from __future__ import annotations

import gc
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from agent.model.address import parse_ip
from agent.model.outcome import Outcome
from agent.telemetry.record import label_names
from tests.support import mesh
from tests.support.two_networks import CLIENT, GATEWAY, HOST, SERVER, World, running
from tests.support.two_nodes import ended, exchange

SERVER_ID = "spiffe://cluster.local/ns/apps/sa/server"
CLIENT_ID = "spiffe://cluster.local/ns/apps/sa/client"


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Parametrized indirectly with who may serve behind the gateway."""
    with running(getattr(request, "param", None)) as made:
        yield made


def labels(world: World, flag: str) -> dict[str, str]:
    """Of the connections that ended so, which are all alike."""
    world.driver.until(lambda: not len(world.here.registry))
    found = [
        dict(zip(label_names(tuple(values)), values, strict=True))
        for values, _ in world.here.metrics.snapshot()["tcp"]
    ]
    (made,) = [each for each in found if each["response_flags"] == flag]
    return made


def test_bytes_cross_and_the_far_end_knows_the_client(world: World) -> None:
    assert exchange(world.connect()) == b"hello"
    near, far = world.until_logged(world.here), world.until_logged(world.there)
    assert f'dst.identity="{SERVER_ID}"' in near and f"dst.addr={GATEWAY}:15008" in near
    assert f"dst.hbone_addr={HOST}:80" in near and "connection complete" in near
    assert f'src.identity="{CLIENT_ID}"' in far and "connection complete" in far


def test_the_gateway_carries_what_it_cannot_read(world: World) -> None:
    secret = b"a word that nobody else shall read"
    assert exchange(world.connect(), secret) == secret
    (heard,) = world.forwarder.heard
    assert heard[:1] == b"\x16" and len(heard) > 500, "a TLS handshake of its own"
    assert secret not in heard and HOST.encode() not in heard


def test_much_crosses_both_ways_at_once(world: World) -> None:
    data, got = random.Random(1).randbytes(6 << 20), bytearray()
    app = world.connect()
    sender = threading.Thread(target=lambda: (app.sendall(data), app.shutdown(socket.SHUT_WR)))
    sender.start()
    while piece := app.recv(65536):
        got += piece
    sender.join()
    app.close()
    assert got == data


def test_a_reader_that_stops_holds_up_itself_alone(world: World) -> None:
    stuck = world.connect()
    stuck.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += stuck.send(bytes(1 << 16))
    assert sent < 64 << 20, "what is not read is not taken without end"
    for _ in range(3):
        assert exchange(world.connect()) == b"hello"
    stuck.close()


def test_each_connection_has_its_own_far_end_and_all_share_the_way_to_the_gateway(world: World) -> None:
    apps = [world.connect() for _ in range(5)]
    for app in apps:
        app.sendall(b"x")
        assert app.recv(1) == b"x"
    assert world.driver.call(lambda: len(world.here.pool.links)) == 1
    assert len(world.forwarder.heard) == 5
    for app in apps:
        app.close()
    world.driver.until(lambda: not world.here.pool.links[0][1].open_streams)


def test_what_the_far_end_says_of_itself_describes_the_destination(world: World) -> None:
    exchange(world.connect())
    made = labels(world, "-")
    assert (made["destination_workload"], made["destination_cluster"]) == ("far-server", "far")
    assert (made["destination_principal"], made["destination_service"]) == (SERVER_ID, HOST)
    assert (made["connection_security_policy"], made["destination_zone"]) == ("mutual_tls", "e1")


@pytest.mark.parametrize("world", [("spiffe://cluster.local/ns/apps/sa/other",)], indirect=True)
def test_a_far_end_that_is_somebody_else_gets_nothing(world: World) -> None:
    assert ended(world.connect())
    assert world.seen == []
    line = world.until_logged(world.here)
    assert SERVER_ID in line and "sa/other" in line and f"{HOST}:80 behind gateway {GATEWAY}:15008" in line
    assert labels(world, "TLS_FAILURE")["source_workload"] == "client", "a failure is a connection too"


@pytest.mark.parametrize("world", [()], indirect=True)
def test_a_service_that_names_nobody_is_not_reached(world: World) -> None:
    assert ended(world.connect())
    assert "needs subjectAltNames" in world.until_logged(world.here)
    assert world.forwarder.heard == []


def test_a_denied_client_is_told_by_the_far_end(world: World) -> None:
    world.put_policy("apps/nobody", mesh.allow("nobody"))
    assert ended(world.connect())
    line = world.until_logged(world.here)
    assert f"http status: 401 from {HOST}:80 behind gateway" in line
    assert world.seen == []


def test_a_policy_change_at_the_far_end_resets_the_client(world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    world.put_policy("apps/nobody", mesh.allow("nobody"))
    with app, pytest.raises(ConnectionResetError):
        app.recv(1)


@pytest.mark.parametrize("who", ["gateway", "pod", "close"])
def test_what_breaks_on_the_way_is_a_reset(world: World, who: str) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    if who == "gateway":
        world.forwarder.cut()
    elif who == "pod":
        world.driver.call(lambda: world.here.close_pod(frozenset({parse_ip(CLIENT)})))
    else:
        world.driver.call(
            lambda: [live.owner.close(Outcome.POLICY_CHANGED, "a test") for live in world.here.registry]
        )
    with app, pytest.raises(ConnectionResetError):
        app.recv(1)
    world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))


def test_a_client_that_resets_is_a_reset_at_the_far_end(world: World) -> None:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    app.close()
    assert "RESET" in world.until_logged(world.here) and "RESET" in world.until_logged(world.there)


def test_a_client_that_leaves_before_it_is_connected_takes_the_way_with_it(world: World) -> None:
    world.driver.call(lambda: world.there.secrets.forget(world.server.identity))
    app = world.connect()
    app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    app.close()
    world.driver.until(lambda: not len(world.here.registry))
    assert world.until_logged(world.here)


def test_a_far_end_that_never_answers_is_waited_for_so_long(world: World) -> None:
    """Its application's queue is full, so that no dial of it is answered either."""
    world.app.shutdown(socket.SHUT_RDWR)
    world.app.close()
    world.app = socket.create_server((SERVER, 8080), backlog=0)
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex((SERVER, 8080))
        app = world.connect()
        world.driver.until(lambda: len(world.there.registry) == 1)
        (inner,) = world.here.far_networks.links
        world.driver.until(lambda: inner._codec.is_greeted)
        # One turn finds both ends' limits passed: nobody hears of the other.
        world.driver.skew_s += 31
        assert ended(app)
    line = world.until_logged(world.here)
    assert "CONNECT_TIMEOUT" in line and f"{HOST}:80 behind gateway {GATEWAY}:15008 has not answered" in line
    assert not len(world.here.pool.unanswered)
    world.driver.until(lambda: not len(world.here.registry) and not len(world.there.registry))


def test_what_ended_leaves_nothing_to_the_garbage_collector(world: World) -> None:
    kinds = {"Inner", "TunnelStream", "TunnelLink", "TlsLink", "OutboundConnection", "Tunnel"}

    def count() -> int:
        return len([each for each in gc.get_objects() if type(each).__name__ in kinds])

    assert exchange(world.connect()) == b"hello"
    world.driver.until(lambda: not len(world.here.registry))
    gc.collect()
    gc.disable()
    try:
        before = world.driver.call(count)
        for _ in range(3):
            assert exchange(world.connect()) == b"hello"
        world.driver.until(lambda: count() <= before)
    finally:
        gc.enable()
