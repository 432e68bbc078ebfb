"""The path by way of the host (`--local-path=host`) between two pods of a data plane; the test plays the kernel.

It has the listener at the server's address: what the data plane dials there first is the crossing, which the kernel
would bring to the plaintext listener, and what it dials next is for the application.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.net.farewell import close
from agent.proxy.crossing import ARRIVES_S
from agent.proxy.own_share import SETTLES_S, OwnShare, owner_of
from tests.support import mesh
from tests.support.datapath import stream_pair
from tests.support.descriptors import open_descriptors
from tests.support.loopback import ours
from tests.support.two_nodes import CLIENT, SERVER, World, running

OPTIONS = {"local_path": "host", "workers": "1"}
STRANGER = ours("5.5")
NO_CLIENT = Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))


@dataclass
class Node:
    """Both pods on one node, and the server's listener."""

    world: World
    listener: socket.socket

    @property
    def target(self) -> SocketAddress:
        return SocketAddress.from_sockname(self.listener.getsockname())

    def dial(self) -> socket.socket:
        """What the client's application has."""
        app = self.world.driver.call(lambda: self.world.there.capture(CLIENT, self.target))
        assert isinstance(app, socket.socket)
        app.settimeout(10)
        return app

    def take(self) -> tuple[socket.socket, SocketAddress]:
        sock, peer = self.listener.accept()
        sock.settimeout(10)
        return sock, SocketAddress.from_sockname(peer)

    def accept(self, sock: socket.socket, peer: SocketAddress) -> None:
        """By the plaintext listener, as the kernel has it."""
        sock.setblocking(False)
        self.world.driver.call(lambda: self.world.there.inbound_plain.accepted(sock, peer, self.target))

    def is_dialled(self) -> bool:
        """Whether one more connection is there by now, once the data plane has nothing left to do."""
        self.world.driver.call(lambda: None)
        self.world.driver.call(lambda: None)
        return bool(select.select([self.listener], [], [], 0)[0])

    def count(self) -> int:
        there = self.world.there
        assert there.crossings is not None
        return len(there.crossings.expected) + len(there.registry)

    def until_over(self) -> None:
        self.world.driver.until(lambda: not len(self.world.there.registry))
        # So long it is known what must not be taken for something else.
        self.world.driver.skew_s += ARRIVES_S
        self.world.driver.until(lambda: self.count() == 0)

    def error(self, direction: str) -> str:
        """Of the only connection, at one of its ends."""
        self.until_over()
        (line,) = (line for line in self.world.there.lines if f'direction="{direction}"' in line)
        return line.partition(' error="')[2].rstrip('"')


@pytest.fixture
def node() -> Iterator[Node]:
    with running(**OPTIONS) as world, socket.create_server((SERVER, 0)) as listener:
        listener.settimeout(10)

        def prepare() -> None:
            world.there.add_pod(world.client, listening=False)
            world.there.share.take(0)

        world.driver.call(prepare)
        world.driver.skew_s += SETTLES_S
        yield Node(world, listener)


def reads_reset(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1)) and False
    except ConnectionResetError:
        return True


def test_the_application_is_dialled_once_the_host_has_let_a_connection_through(node: Node) -> None:
    with node.dial() as app:
        crossing, peer = node.take()
        assert peer.ip == parse_ip(CLIENT), "the host sees the client's pod"
        assert not node.is_dialled()
        node.accept(crossing, peer)
        server, _ = node.take()
        with server:
            app.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer!")
            assert app.recv(100) == b"answer!"
    node.until_over()
    outbound, inbound = sorted(node.world.there.lines, key=lambda line: 'direction="inbound"' in line)
    for line in (outbound, inbound):
        assert "/sa/client" in line
        assert "bytes_sent=7 bytes_recv=8" in line or "bytes_sent=8 bytes_recv=7" in line
    assert not node.world.there.pool.links, "no TLS"


def test_what_the_host_refuses_does_not_come_to_pass(node: Node) -> None:
    refusing = node.target
    node.listener.close()
    app = node.world.driver.call(lambda: node.world.there.capture(CLIENT, refusing))
    assert isinstance(app, socket.socket)
    with app:
        app.settimeout(10)
        assert reads_reset(app)
    node.until_over()
    assert all("CONNECT_FAILED" in line and "refused" in line for line in node.world.there.lines)


def test_a_crossing_that_comes_to_somebody_else_is_no_permission(node: Node) -> None:
    with node.dial() as app:
        crossing, _ = node.take()
        with crossing:
            node.world.driver.until(lambda: node.count() == 3)
            node.world.driver.skew_s += ARRIVES_S + 1
            assert reads_reset(app)
            assert not node.is_dialled()
    assert "use hbone" in node.error("outbound")


@pytest.mark.parametrize("how", ["not accepted", "refused", "let go"])
def test_one_that_another_worker_has_while_listeners_change_hands_is_tried_again(
    node: Node, how: str
) -> None:
    driver, share = node.world.driver, node.world.there.share
    crossings = node.world.there.crossings
    assert crossings is not None
    if how != "let go":
        driver.call(lambda: share.take(0))
    with node.dial() as app:
        strayed, _ = node.take()
        if how == "not accepted":
            driver.until(lambda: node.count() == 3)
            driver.skew_s += ARRIVES_S
        elif how == "refused":
            close(strayed, reset=True)
        else:
            driver.call(lambda: crossings.let_go(0))
        crossing, peer = node.take()
        strayed.close()
        node.accept(crossing, peer)
        server, _ = node.take()
        with server:
            server.sendall(b"welcome")
            assert app.recv(100) == b"welcome"


def test_a_worker_that_serves_no_more_does_not_say_that_the_host_was_against_it(node: Node) -> None:
    there = node.world.there

    def let_go() -> None:
        assert there.crossings is not None
        there.share.leave(0)
        there.crossings.let_go(0)

    with node.dial() as app, node.take()[0]:
        node.world.driver.call(let_go)
        assert reads_reset(app)
    assert node.error("outbound").startswith(
        "DRAINED: the host let it through to the worker that serves next"
    )


def test_only_its_own_ends_make_a_crossing_and_only_once(node: Node) -> None:
    """Whatever else comes to the listener is plaintext: with no identity, and judged so."""
    node.world.put_policy("apps/known", mesh.policy("known", Action.ALLOW, NO_CLIENT))
    with node.dial() as app:
        crossing, peer = node.take()
        for forged in (SocketAddress(peer.ip, peer.port ^ 1), SocketAddress(parse_ip(STRANGER), peer.port)):
            mine, theirs = stream_pair(STRANGER)
            with mine:
                mine.settimeout(10)
                node.accept(theirs, forged)
                assert reads_reset(mine)
        assert not node.is_dialled()
        node.accept(crossing, peer)
        with node.take()[0] as server:
            mine, theirs = stream_pair(STRANGER)
            with mine:
                mine.settimeout(10)
                node.accept(theirs, peer)
                assert reads_reset(mine), "the same ends again"
            app.sendall(b"x")
            assert server.recv(1) == b"x"


@pytest.mark.parametrize("end", ["dialled", "accepted"])
def test_what_the_host_cuts_later_is_reset_at_both_ends(node: Node, end: str) -> None:
    with node.dial() as app:
        crossing, peer = node.take()
        ours_, theirs = stream_pair(STRANGER)
        # In the place of what was accepted: so the test has something to reset at each end of it.
        node.accept(theirs, peer)
        with crossing, ours_, node.take()[0] as server:
            app.sendall(b"x")
            assert server.recv(1) == b"x"
            close(crossing if end == "dialled" else ours_, reset=True)
            assert reads_reset(app) and reads_reset(server)
    assert node.error("outbound").startswith("RESET: the host has cut it")


def test_a_policy_that_comes_while_the_host_is_asked_ends_it(node: Node) -> None:
    with node.dial() as app:
        crossing, peer = node.take()
        node.world.put_policy("apps/no-client", mesh.policy("no-client", Action.DENY, NO_CLIENT))
        assert reads_reset(app)
        node.accept(crossing, peer)
        assert not node.is_dialled(), "what it had on its way is not taken for plaintext"


@pytest.mark.parametrize("is_across", [False, True])
def test_nothing_of_it_outlives_its_client(node: Node, is_across: bool) -> None:
    driver = node.world.driver

    # Sockets in stock, and what else is there from the first one on.
    before = driver.call(open_descriptors)
    app = node.dial()
    crossing, peer = node.take()
    server = None
    if is_across:
        node.accept(crossing, peer)
        server, _ = node.take()
    close(app, reset=True)
    node.until_over()
    for sock in (server, None if is_across else crossing):
        if sock is not None:
            assert reads_reset(sock)
            sock.close()
    driver.until(lambda: open_descriptors() == before)


def test_a_pod_that_calls_itself_does_not_ask_the_host(node: Node) -> None:
    def capture() -> socket.socket:
        return node.world.there.capture(SERVER, node.target)

    app = node.world.driver.call(capture)
    assert isinstance(app, socket.socket)
    with app, node.take()[0] as server:
        server.sendall(b"at once")
        assert app.recv(100) == b"at once"


def test_without_a_listener_of_its_own_a_worker_takes_the_tunnel(node: Node) -> None:
    node.world.driver.call(lambda: node.world.there.share.leave(0))
    with node.dial() as app, node.take()[0] as server:
        app.sendall(b"x")
        assert server.recv(1) == b"x"
        assert node.world.driver.call(lambda: len(node.world.there.pool.links)) == 1


@pytest.mark.parametrize("target", ["10.1.0.2:80", "[fd00::2]:80"])
def test_every_worker_has_ports_that_lead_to_it(target: str) -> None:
    """The choice of the kernel: tests/packets compares."""
    share, local = OwnShare(4, time.monotonic), mesh.at(target)
    share.take(2)
    remotes = [SocketAddress(local.ip, port) for port in range(1024, 3024)]
    led = [remote for remote in remotes if share.has(remote, local)]
    assert 2000 / 4 * 0.8 < len(led) < 2000 / 4 * 1.2
    assert all(owner_of(remote, local, 4, 0) == 2 for remote in led)
    share.take(0)
    assert sum(share.has(remote, local) for remote in remotes) > len(led)
