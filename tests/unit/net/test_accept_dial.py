"""Listeners, dials and the sockets they are made of, on loopback and in a network namespace of our own."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from agent.dump.settings import KEEPALIVE as dumped_keepalive
from agent.model.address import SocketAddress
from agent.net.accept import Acceptor
from agent.net.dial import RANDOM_TRIES, Dial, Dialler
from agent.net.sockets import IP_TRANSPARENT, SideSockets, in_netns, open_listener
from tests.support.netpair import Node, deaf, node

LOCAL = IPv4Address("127.0.0.1")
HERE = SocketAddress(LOCAL, 0)


class Server:
    """An acceptor that remembers what it was handed."""

    def __init__(self, it: Node, address: str = "127.0.0.1", **options: object) -> None:
        self.it = it
        self.found: list[tuple[socket.socket, SocketAddress, SocketAddress]] = []
        listener = open_listener(None, 0, transparent=False, reuse_port=False, address=address)
        self.port = listener.getsockname()[1]
        self.acceptor = Acceptor(it.loop, listener, self.accept, **options)
        self.acceptor.start()
        it.closing.callback(self.acceptor.close)

    def accept(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        self.found.append((self.it.keep(sock), peer, local))


def test_a_dual_stack_listener_hands_on_canonical_addresses() -> None:
    with node() as it:
        server = Server(it, "::")
        four = it.keep(socket.create_connection(("127.0.0.1", server.port)))
        six = it.keep(socket.create_connection(("::1", server.port)))
        it.until(lambda: len(server.found) == 2)
        by_peer = {peer: (sock, local) for sock, peer, local in server.found}
        sock, local = by_peer[SocketAddress(LOCAL, four.getsockname()[1])]
        assert local == SocketAddress(LOCAL, server.port)
        assert by_peer[SocketAddress(IPv6Address("::1"), six.getsockname()[1])]
        assert not sock.getblocking() and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert keepalive(sock) == SAID


SAID = (True, *(dumped_keepalive[f"keepalive{name}"] for name in ("Time", "Interval")), 9)
"""What the config dump says."""


def keepalive(sock: socket.socket) -> tuple[object, ...]:
    def seconds(option: int) -> object:
        return {"secs": sock.getsockopt(socket.IPPROTO_TCP, option), "nanos": 0}

    is_on = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    spans = seconds(socket.TCP_KEEPIDLE), seconds(socket.TCP_KEEPINTVL)
    return (is_on, *spans, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT))


def test_both_ends_of_a_connection_find_out_when_the_other_is_gone() -> None:
    with node() as it:
        server = Server(it)
        dials = Dials(it)
        dials.start(SocketAddress(LOCAL, server.port))
        it.until(lambda: server.found and dials.results)
        (dialled,) = dials.results
        assert isinstance(dialled, socket.socket)
        assert keepalive(dialled) == keepalive(server.found[0][0]) == SAID


def test_more_connections_than_a_batch_are_all_accepted() -> None:
    with node() as it:
        server = Server(it)
        clients = [it.keep(socket.create_connection(("127.0.0.1", server.port))) for _ in range(150)]
        it.until(lambda: len(server.found) == len(clients))


def test_who_is_known_to_be_there_is_accepted_without_an_event() -> None:
    with node() as it:
        server = Server(it)
        clients = [it.keep(socket.create_connection(("127.0.0.1", server.port))) for _ in range(5)]
        server.acceptor.take(2)
        assert len(server.found) == 2
        server.acceptor.take(4)
        assert len(server.found) == 5, "one was not there yet"
        clients.append(it.keep(socket.create_connection(("127.0.0.1", server.port))))
        it.until(lambda: len(server.found) == len(clients))
        server.acceptor.close()
        server.acceptor.take(1)


def test_a_receiver_that_raises_costs_one_connection_only() -> None:
    with node() as it:
        listener = open_listener(None, 0, transparent=False, reuse_port=False, address="127.0.0.1")
        seen: list[socket.socket] = []

        def accept(sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
            seen.append(it.keep(sock))
            if len(seen) == 1:
                raise ValueError("first")

        acceptor = Acceptor(it.loop, listener, accept)
        acceptor.start()
        it.closing.callback(acceptor.close)
        for _ in range(3):
            it.keep(socket.create_connection(listener.getsockname()))
        for _ in range(10):
            it.loop.turn(0.01)
        assert len(seen) == 3 and [str(e) for e in it.errors] == ["first"] and seen[0].fileno() == -1


def test_a_full_descriptor_table_pauses_without_spinning_and_recovers() -> None:
    with node() as it:
        full: list[int] = []
        server = Server(it, on_exhausted=lambda: full.append(1))
        it.keep(socket.create_connection(("127.0.0.1", server.port)))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
        fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]
        it.stop_clock()  # it tries again after a tenth of a second, not before
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            it.settle()
            assert len(full) == 1 and not server.found
        finally:
            it.start_clock()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in fillers:
                os.close(fd)
        it.until(lambda: server.found)


def free_descriptors(it: Node, count: int) -> int:
    """The highest of so many that come next."""
    one = it.keep(socket.socket()).fileno()
    free = [os.dup(one) for _ in range(count)]  # others may have numbers in between
    for fd in free:
        os.close(fd)
    return max(free)


def test_a_limit_that_is_raised_meanwhile_counts_for_those_who_wait() -> None:
    with node() as it:
        paused: list[int] = []
        ceilings = [free_descriptors(it, 10)]
        server = Server(it, on_exhausted=lambda: paused.append(1), ceiling=lambda: ceilings[-1])
        for _ in range(20):
            it.keep(socket.create_connection(("127.0.0.1", server.port)))
        it.until(lambda: len(paused) > 3)
        assert len(server.found) < 20
        ceilings.append(1 << 30)
        it.until(lambda: len(server.found) == 20)


def test_above_the_ceiling_nothing_is_accepted_until_descriptors_are_free_again() -> None:
    with node() as it:
        paused: list[int] = []
        ceiling = free_descriptors(it, 30)
        server = Server(it, on_exhausted=lambda: paused.append(1), ceiling=lambda: ceiling)
        clients = [it.keep(socket.create_connection(("127.0.0.1", server.port))) for _ in range(20)]
        it.until(lambda: bool(paused))
        served = len(server.found)
        it.until(lambda: len(paused) > 3)
        assert served < 20 and len(server.found) == served
        for client in clients:
            client.close()
        it.until(lambda: len(server.found) == 20)


# -- dial


class Dials:
    """Starts dials and owns them: what they answered."""

    def __init__(self, it: Node, sockets: SideSockets | None = None) -> None:
        self.it = it
        self.results: list[socket.socket | OSError] = []
        self.sockets = sockets or SideSockets(None)
        it.closing.callback(self.sockets.close)
        self.random_ports = itertools.count(40_000)

    def start(
        self,
        target: SocketAddress,
        source: SocketAddress | None = None,
        timeout_s: float = 10,
        port: Callable[[], int] | None = None,
    ) -> Dial:
        random_port = port or (lambda: next(self.random_ports))
        return Dialler(self.it.loop, self.sockets, random_port, timeout_s).dial(target, source, self)

    def connected(self, sock: socket.socket) -> None:
        self.it.loop.forget(sock.fileno())
        self.results.append(self.it.keep(sock))

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self.results.append(error)

    def result(self) -> socket.socket | OSError:
        self.it.until(lambda: self.results)
        return self.results.pop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_dial_uses_the_clients_own_port() -> None:
    with node() as it:
        server, dials = Server(it), Dials(it)
        own = free_port()
        assert not dials.results
        dials.start(SocketAddress(LOCAL, server.port), SocketAddress(LOCAL, own))
        assert not dials.results  # never from inside the call
        sock = dials.result()
        assert isinstance(sock, socket.socket) and sock.getsockname() == ("127.0.0.1", own)
        assert not sock.getblocking()


def test_taken_ports_lead_to_random_ones_and_last_to_the_kernels_choice() -> None:
    with node() as it, socket.create_server(("127.0.0.1", 0)) as taken:
        server, dials = Server(it), Dials(it)
        busy = taken.getsockname()[1]
        asked: list[int] = []

        def random_port() -> int:
            asked.append(busy if len(asked) < 3 else free_port())
            return asked[-1]

        target = SocketAddress(LOCAL, server.port)
        dials.start(target, SocketAddress(LOCAL, busy), port=random_port)
        sock = dials.result()
        assert isinstance(sock, socket.socket) and sock.getsockname()[1] == asked[3] and len(asked) == 4
        asked.clear()
        dials.start(target, SocketAddress(LOCAL, busy), port=lambda: asked.append(0) or busy)  # type: ignore[func-returns-value]
        sock = dials.result()
        assert isinstance(sock, socket.socket) and sock.getsockname()[1] != busy
        assert len(asked) == RANDOM_TRIES


def test_a_refused_connection_is_the_answer() -> None:
    with node() as it:
        dials = Dials(it)
        dials.start(SocketAddress(LOCAL, free_port()), HERE)
        result = dials.result()
        assert isinstance(result, ConnectionRefusedError) and result.errno == errno.ECONNREFUSED


def test_an_address_that_is_not_ours_is_the_answer_after_all_tries() -> None:
    with node() as it:
        dials = Dials(it)
        dials.start(SocketAddress(LOCAL, 9), SocketAddress(IPv4Address("192.0.2.1"), 999))
        result = dials.result()
        assert isinstance(result, OSError) and result.errno == errno.EADDRNOTAVAIL


def test_no_answer_is_a_timeout() -> None:
    with node() as it, deaf("127.0.0.1") as target:
        dials = Dials(it)
        dials.start(target, HERE, timeout_s=10)
        it.settle()
        assert not dials.results
        it.skew_s = 10
        assert isinstance(dials.result(), TimeoutError)


def test_a_cancelled_dial_is_silent() -> None:
    with node() as it:
        server, dials = Server(it), Dials(it)
        dials.start(SocketAddress(LOCAL, server.port)).cancel()
        refused = dials.start(SocketAddress(LOCAL, free_port()))
        refused.cancel()
        it.settle()
        it.skew_s = 11
        it.settle()
        assert not dials.results


def test_an_edge_of_the_descriptors_former_owner_is_not_taken_for_the_answer() -> None:
    """Two sockets are ready in one round; the first's handler closes the second and dials: same number, old edge."""
    with node() as it, deaf("127.0.0.1") as target:
        dials = Dials(it)
        (one, other), (doomed, far) = socket.socketpair(), socket.socketpair()
        for sock in (one, other, far):
            it.keep(sock)
        number = doomed.fileno()
        started: list[Dial] = []

        def close_and_dial(mask: int) -> None:
            if not started:
                it.loop.forget(number)
                doomed.close()
                started.append(dials.start(target))

        it.loop.watch(one.fileno(), close_and_dial, mask=select.EPOLLIN)
        it.loop.watch(number, lambda mask: None, mask=select.EPOLLIN)
        other.send(b"first")
        far.send(b"second")
        it.loop.turn(0)
        assert started[0]._sock is not None and started[0]._sock.fileno() == number
        it.settle()
        assert not dials.results, "it is still connecting"
        started[0].cancel()


# -- namespaces


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"ztA-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.kernel
def test_sockets_belong_to_their_namespace_and_this_thread_does_not(netns: str) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with node() as it:
        listener = open_listener(netns, 15008, transparent=True, reuse_port=True)
        found: list[SocketAddress] = []
        acceptor = Acceptor(it.loop, listener, lambda sock, peer, local: (it.keep(sock), found.append(peer)))
        acceptor.start()
        it.closing.callback(acceptor.close)
        dials = Dials(it, SideSockets(netns, transparent=True, stock=4))
        client = SocketAddress(
            IPv4Address("10.9.8.7"), 4321
        )  # nobody's address: only a transparent socket may
        subprocess.run(
            ["ip", "-n", netns.rpartition("/")[2], "route", "add", "local", "10.9.8.7", "dev", "lo"],
            check=True,
        )
        for number in range(10):  # more than the stock holds
            dials.start(SocketAddress(LOCAL, 15008), client._replace(port=4321 + number))
            sock = dials.result()
            assert isinstance(sock, socket.socket), sock
            assert sock.getsockopt(socket.IPPROTO_IP, IP_TRANSPARENT) == 1
        it.until(lambda: len(found) == 10)
        assert found[0] == client
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_a_namespace_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="/run/netns/ztA-none"):
        SideSockets("/run/netns/ztA-none")
    with pytest.raises(FileNotFoundError, match="/run/netns/ztA-none"):
        open_listener("/run/netns/ztA-none", 1, transparent=False, reuse_port=False)
    with pytest.raises(OSError, match="cannot enter"):
        SideSockets("/dev/null")


def test_what_is_done_in_a_namespace_raises_here() -> None:
    with pytest.raises(ZeroDivisionError):
        in_netns("/proc/self/ns/net", lambda: 1 // 0)
