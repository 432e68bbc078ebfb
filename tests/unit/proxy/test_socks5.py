"""SOCKS5 of a worker: what a client asks for is a captured connection of its pod, and it is told what came of it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.model.listener import SOCKS5_PORT
from agent.model.outcome import Outcome
from agent.proxy import socks5
from agent.proxy.socks5 import OF_ERRNO, OF_OUTCOME
from agent.state.apply import Batch
from agent.wire.socks5 import Reply, reply
from tests.support import mesh
from tests.support.datapath import PROXY, DataPath, stream_pair
from tests.support.loopback import ours
from tests.support.two_nodes import CLIENT, SERVER, VIP, World, exchange, running

GREETING, CHOSEN = b"\x05\x01\x00", b"\x05\x00"
OUTSIDE = ours("7.7")
AT = SocketAddress(PROXY.v4, SOCKS5_PORT)


@pytest.fixture(scope="module")
def nodes() -> Iterator[World]:
    with running(socks5="true") as made:
        assert made.here.socks5 is not None
        made.here.socks5.is_nobodys = lambda ip: ip.is_multicast  # pods are on loopback here
        made.here.socks5.name_servers = lambda: ()
        yield made


@pytest.fixture
def world(nodes: World) -> World:
    """With nothing written down yet."""
    nodes.driver.until(lambda: not len(nodes.here.registry) and not len(nodes.there.registry))
    for lines in (nodes.here.lines, nodes.there.lines, nodes.seen):
        lines.clear()
    return nodes


def came(world: World, target: SocketAddress = AT, client: str = CLIENT) -> socket.socket:
    """A connection that a pod has opened, as the listener has it accepted."""
    application, captured = stream_pair(client)
    captured.setblocking(False)
    peer = SocketAddress(parse_ip(client), application.getsockname()[1])
    world.driver.call(lambda: world.here._captured()(captured, peer, target))
    application.settimeout(10)
    return application


def request(host: str, port: int) -> bytes:
    try:
        return b"\x05\x01\x00\x01" + socket.inet_aton(host) + port.to_bytes(2, "big")
    except OSError:
        return b"\x05\x01\x00\x03" + bytes((len(host),)) + host.encode() + port.to_bytes(2, "big")


def asked(world: World, host: str, port: int, early: bytes = b"") -> tuple[int, socket.socket]:
    """The code that is answered."""
    app = came(world)
    app.sendall(GREETING)
    assert app.recv(2) == CHOSEN
    app.sendall(request(host, port) + early)
    answer = app.recv(10, socket.MSG_WAITALL)
    assert answer == reply(Reply(answer[1]))
    return answer[1], app


@pytest.mark.parametrize(
    "host, port",
    [(SERVER, 8080), (VIP, 80), ("web", 80), ("web.apps.svc.cluster.local", 80)],
    ids=["pod", "Service", "name", "whole name"],
)
def test_it_is_reached_as_by_a_captured_connection(world: World, host: str, port: int) -> None:
    code, app = asked(world, host, port)
    assert code == Reply.SUCCEEDED
    assert exchange(app) == b"hello"
    world.driver.until(lambda: bool(world.here.lines) and bool(world.there.lines))
    (line,) = world.here.lines
    for said in (
        f"src.addr={CLIENT}:",
        'src.workload="client"',
        f"dst.hbone_addr={SERVER}:8080",
        "sa/server",
    ):
        assert said in line
    assert world.seen == [CLIENT]
    assert "sa/client" in world.there.lines[0], "its own identity"


def test_what_comes_before_the_answer_is_for_the_destination(world: World) -> None:
    code, app = asked(world, SERVER, 8080, early=b"early ")
    assert (code, exchange(app)) == (Reply.SUCCEEDED, b"early hello")


def test_a_policy_of_the_other_node_is_told(world: World) -> None:
    world.put_policy("apps/nobody", mesh.allow("nobody"))
    try:
        code, app = asked(world, SERVER, 8080)
    finally:
        gone = Batch(removed_authorizations=("apps/nobody",))
        world.driver.call(lambda: world.there.store.apply(gone))
    assert (code, app.recv(1)) == (Reply.NOT_ALLOWED, b"")
    app.close()
    assert "http status: 401" in world.here.lines[0]


def test_a_port_that_nobody_has_is_told(world: World) -> None:
    code, app = asked(world, SERVER, 9)
    assert (code, app.recv(1)) == (Reply.REFUSED, b"")
    app.close()
    with socket.create_server((OUTSIDE, 0)) as listener:
        port = listener.getsockname()[1]
    code, app = asked(world, OUTSIDE, port)
    assert (code, app.recv(1)) == (Reply.REFUSED, b""), "nor outside of the mesh"
    app.close()


@pytest.mark.parametrize(
    "host, code, why",
    [
        ("nowhere.test", Reply.HOST_UNREACHABLE, "no name server to ask"),
        ("224.0.0.1", Reply.NOT_ALLOWED, "where no other host can be"),
        (str(PROXY.v4), Reply.NOT_ALLOWED, "an address of the agent itself"),
        ("2001:db8::1", Reply.ADDRESS_UNKNOWN, "no address of IPv6"),
    ],
    ids=["unknown name", "multicast", "the agent", "other family"],
)
def test_what_leads_nowhere_is_told(world: World, host: str, code: Reply, why: str) -> None:
    answered, app = asked(world, host, 80)
    assert (answered, app.recv(1)) == (code, b"")
    app.close()
    world.driver.until(lambda: bool(world.here.lines))
    assert why in world.here.lines[0]


def test_who_speaks_otherwise_is_told_and_written_down(world: World) -> None:
    app = came(world)
    app.sendall(b"\x05\x01\x02")
    assert app.recv(100) == b"\x05\xff"
    app.close()
    world.driver.until(lambda: bool(world.here.lines))
    assert "only with authentication" in world.here.lines[0]


def test_a_client_that_says_nothing_or_leaves_is_let_go(world: World) -> None:
    silent, left = came(world), came(world)
    left.close()
    world.driver.until(lambda: len(world.here.lines) == 1)
    world.driver.skew_s += socks5.PATIENCE_S
    with pytest.raises(ConnectionResetError):
        silent.recv(1)
    silent.close()
    assert "no SOCKS5 request in 10 s" in world.here.lines[1]
    assert world.here.socks5 is not None and not world.here.socks5._open


def test_a_client_that_has_asked_for_nothing_yet_leaves_with_its_pod(world: World) -> None:
    app = came(world)
    app.sendall(GREETING)
    assert app.recv(2) == CHOSEN
    [live] = world.driver.call(lambda: list(world.here.registry))
    assert live.protocol == "SOCKS5"
    world.driver.call(lambda: world.here.close_pod(frozenset(world.client.addresses)))
    with pytest.raises(ConnectionResetError):
        app.recv(1)
    app.close()
    assert "the pod left the mesh" in world.here.lines[0]
    assert world.here.socks5 is not None and not world.here.socks5._open


@pytest.mark.parametrize("limit", [("MOST_OF_A_POD", 2), ("MOST", 4)], ids=["of a pod", "leaves room"])
def test_too_many_of_one_pod_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]
) -> None:
    monkeypatch.setattr(socks5, *limit)
    apps = [came(world) for _ in range(3)]
    with pytest.raises(ConnectionResetError):
        apps[2].recv(1)
    apps.pop().close()
    apps.pop().close()
    world.driver.until(lambda: len(world.here.lines) == 2)
    code, app = asked(world, SERVER, 8080)
    assert (code, exchange(app)) == (Reply.SUCCEEDED, b"hello")
    apps.pop().close()
    # Its line is not to come into the next test's.
    service = world.here.socks5
    assert service is not None
    world.driver.until(lambda: not service._open)


def test_other_connections_are_none_of_its_own(world: World) -> None:
    for target in (SocketAddress(parse_ip(SERVER), SOCKS5_PORT), SocketAddress(PROXY.v4, 15001)):
        with came(world, target) as app, pytest.raises(ConnectionResetError):
            app.recv(1)
    with came(world, mesh.at(f"{SERVER}:8080")) as app:
        app.sendall(b"plain")
        assert app.recv(5, socket.MSG_WAITALL) == b"plain"


def test_off_there_is_nothing_of_it(nodes: World) -> None:
    off = nodes.driver.call(lambda: DataPath(nodes.driver.loop, nodes.ca))
    assert isinstance(off, DataPath) and off.socks5 is None
    nodes.driver.call(off.close)


def test_the_codes_of_refusals() -> None:
    assert OF_ERRNO[errno.ENETUNREACH] is Reply.NETWORK_UNREACHABLE
    assert OF_ERRNO[errno.EHOSTUNREACH] is Reply.HOST_UNREACHABLE
    assert OF_OUTCOME[Outcome.CONNECT_TIMEOUT] is Reply.HOST_UNREACHABLE
    assert OF_OUTCOME[Outcome.WAYPOINT_BYPASSED] is Reply.NOT_ALLOWED
