"""What a data plane says of its HBONE connections and of handshakes that failed, over real connections."""

from __future__ import annotations

import contextlib
import socket

import pytest

from agent.identity.credentials import Credentials
from tests.support import mesh
from tests.support.certs import TestCA, credentials
from tests.support.datapath import DataPath
from tests.support.two_nodes import SERVER, World, ended, exchange

FAILURES, CONNECTIONS, STREAMS = "ztun_handshake_failures", "ztun_hbone_connections", "ztun_hbone_streams"
FAILED = "ztun_connections_failed"


def figures(world: World, plane: DataPath) -> dict[tuple[str, ...], float]:
    """Those that are not zero."""
    items = world.driver.call(lambda: plane.metrics.figures.items())
    assert isinstance(items, list)
    return {(name, *labels): count for name, labels, count in items if count}


def test_connections_and_tunnels_are_gauges_of_both_ends(world: World) -> None:
    apps = [world.connect() for _ in range(3)]
    for app in apps:
        app.sendall(b"x")
        assert app.recv(1) == b"x"
    assert figures(world, world.here) == {(CONNECTIONS, "client"): 1, (STREAMS, "client"): 3}
    assert figures(world, world.there) == {(CONNECTIONS, "server"): 1, (STREAMS, "server"): 3}
    for app in apps:
        assert exchange(app, b"y") == b"y"
    world.driver.until(lambda: (STREAMS, "client") not in {k for k, v in read(world.here).items() if v})
    assert figures(world, world.here) == {(CONNECTIONS, "client"): 1}


def test_who_does_not_read_shows_at_both_ends_and_is_gone_with_the_connection(world: World) -> None:
    waiting, unread = ("ztun_hbone_streams_waiting", "client"), ("ztun_unread_bytes",)
    with socket.create_server((SERVER, 8081)) as lazy:
        app = world.connect(f"{SERVER}:8081")
        served, _ = lazy.accept()
        app.setblocking(False)

        def push() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    app.send(bytes(1 << 18))

        # It stands: the client's end waits, the server's end holds what its application does not take.
        world.driver.until(lambda: push() or bool(read(world.here)[waiting] and read(world.there)[unread]))
        assert not read(world.there)[waiting[0], "server"]
        served.close()
        app.close()
    world.driver.until(lambda: not read(world.here)[waiting] and not read(world.there)[unread])


def read(plane: DataPath) -> dict[tuple[str, ...], float]:
    """In the loop's own thread."""
    return {(name, *labels): count for name, labels, count in plane.metrics.figures.items()}


def strange(uri: str, ca: TestCA, *, trusts: TestCA) -> Credentials:
    """A certificate of one CA, in the hands of somebody who trusts another."""
    return credentials(ca, uri, roots=(trusts,))


def test_a_server_of_another_ca_counts_at_the_client_and_the_refusal_at_the_server(world: World) -> None:
    held = strange(str(world.server.identity), TestCA(), trusts=world.ca)
    world.driver.call(lambda: world.there.secrets.put(held))
    assert ended(world.connect())
    assert figures(world, world.here) == {
        (FAILURES, "client", "untrusted"): 1,
        (FAILED, "outbound", "tls_failed"): 1,
    }
    world.driver.until(lambda: bool(read(world.there)[FAILURES, "server", "refused_by_peer"]))


def test_a_client_of_another_ca_counts_at_the_server_and_the_refusal_at_the_client(world: World) -> None:
    held = strange(str(world.client.identity), TestCA(), trusts=world.ca)
    world.driver.call(lambda: world.here.secrets.put(held))
    assert ended(world.connect())
    assert figures(world, world.there) == {
        (FAILURES, "server", "untrusted"): 1,
        (FAILED, "inbound", "tls_failed"): 1,
    }
    world.driver.until(lambda: bool(read(world.here)[FAILURES, "client", "refused_by_peer"]))


def test_an_identity_that_is_not_expected_counts_as_that(world: World) -> None:
    other = mesh.workload("server", SERVER, service_account="other", services={"web": {80: 8080}})
    world.driver.call(lambda: world.here.know(other))
    assert ended(world.connect())
    assert figures(world, world.here) == {
        (FAILURES, "client", "wrong_identity"): 1,
        (FAILED, "outbound", "wrong_identity"): 1,
    }


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (b"\x16\x03\x01\x00\x05hello", "protocol"),
        (b"", "closed"),
    ],
)
def test_a_stranger_counts_by_what_it_did(world: World, said: bytes, reason: str) -> None:
    with socket.create_connection((SERVER, 15008)) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    world.driver.until(lambda: bool(read(world.there)[FAILURES, "server", reason]))
    assert figures(world, world.there) == {
        (FAILURES, "server", reason): 1,
        (FAILED, "inbound", "tls_failed"): 1,
    }


def test_who_has_not_proven_anything_is_no_connection_yet(world: World) -> None:
    with socket.create_connection((SERVER, 15008)):
        world.driver.until(lambda: world.there.inbound.held == 1)
        assert (CONNECTIONS, "server") not in figures(world, world.there)


@pytest.mark.parametrize("world", [{"handshake_timeout_s": "0.1"}], indirect=True)
def test_silence_counts_as_a_timeout(world: World) -> None:
    with socket.create_connection((SERVER, 15008)):
        world.driver.until(lambda: bool(read(world.there)[FAILURES, "server", "timeout"]))
