"""The end of a pod's connection to its name server: queries behind their lengths, cut anywhere, one answer for each."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import dns.message
import pytest

from agent.model.address import SocketAddress
from agent.net.farewell import LINGER_S
from agent.proxy.dns_clients import IDLE_S, MOST_CONNECTIONS, TcpClients
from tests.support.dns_service import POD, SERVER, Asking, asking
from tests.support.pod_dns import texts

ZONE = {("far.test.", "A"): ["192.0.2.1"]}


class Connected:
    """A connection of the pod. `sock` is the pod's end."""

    def __init__(self, pod: Asking, clients: TcpClients) -> None:
        self.pod = pod
        with socket.create_server((str(SERVER), 0)) as listener:
            self.sock = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        accepted.setblocking(False)
        self.sock.setblocking(False)
        clients.accepted(accepted, SocketAddress(POD, 1), SocketAddress(SERVER, 53))
        self.came = bytearray()
        self.is_ended = False

    def answers(self, count: int) -> list[dns.message.Message]:
        """So many of them, once they have come."""
        self.pod.until(lambda: self._read() or len(self._whole()) >= count)
        return [dns.message.from_wire(each) for each in self._whole()]

    def is_over(self) -> bool:
        self._read()
        return self.is_ended

    def _read(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self.came += data
        self.is_ended = self.is_ended or not data
        return False

    def _whole(self) -> list[bytes]:
        found, at = [], 0
        while at + 2 <= len(self.came):
            (length,) = struct.unpack_from(">H", self.came, at)
            if at + 2 + length > len(self.came):
                break
            found.append(bytes(self.came[at + 2 : at + 2 + length]))
            at += 2 + length
        return found


@pytest.fixture
def pod() -> Iterator[Asking]:
    with asking(ZONE) as made:
        yield made


@pytest.fixture
def clients(pod: Asking) -> Iterator[TcpClients]:
    made = TcpClients(pod.loop, pod.service)
    yield made
    for each in tuple(made.open):
        each._cut()
    # Those that were parting have had their time.
    pod.passed_s += 2 * LINGER_S
    pod.loop.turn(0)


def framed(name: str) -> bytes:
    wire = dns.message.make_query(name, "A", use_edns=False).to_wire()
    return struct.pack(">H", len(wire)) + wire


def test_queries_behind_each_other_are_answered_in_order(pod: Asking, clients: TcpClients) -> None:
    connected = Connected(pod, clients)
    with connected.sock:
        connected.sock.sendall(
            framed("far.test.") + framed("web.") + framed("nowhere.test.") + framed("web.")
        )
        found = connected.answers(4)
        assert [str(each.question[0].name) for each in found] == [
            "far.test.",
            "web.",
            "nowhere.test.",
            "web.",
        ]
        assert [texts(each) for each in found] == [["192.0.2.1"], ["10.1.0.1"], [], ["10.1.0.1"]]


def test_a_query_may_come_in_pieces_and_its_client_say_no_more(pod: Asking, clients: TcpClients) -> None:
    connected = Connected(pod, clients)
    with connected.sock:
        for byte in framed("far.test."):
            connected.sock.sendall(bytes([byte]))
            pod.loop.turn(0)
        connected.sock.shutdown(socket.SHUT_WR)
        assert [texts(each) for each in connected.answers(1)] == [["192.0.2.1"]]
        pod.until(connected.is_over)
        assert not clients.open


def test_who_asks_nothing_is_not_waited_for(pod: Asking, clients: TcpClients) -> None:
    connected = Connected(pod, clients)
    with connected.sock:
        connected.sock.sendall(framed("web."))
        connected.answers(1)
        pod.passed_s += IDLE_S - 1
        pod.loop.turn(0)
        assert clients.open
        pod.passed_s += 1
        pod.until(connected.is_over)
        assert not clients.open


def test_what_is_no_dns_ends_the_connection(pod: Asking, clients: TcpClients) -> None:
    connected = Connected(pod, clients)
    with connected.sock:
        connected.sock.sendall(b"\0\3abc" + framed("web."))
        pod.until(connected.is_over)
        assert not connected.came


def test_connections_are_bounded(pod: Asking, clients: TcpClients) -> None:
    many = [Connected(pod, clients) for _ in range(MOST_CONNECTIONS)]
    last = Connected(pod, clients)
    pod.until(last.is_over)
    assert len(clients.open) == MOST_CONNECTIONS
    many[0].sock.sendall(framed("web."))
    assert texts(many[0].answers(1)[0]) == ["10.1.0.1"]
    for each in (*many, last):
        each.sock.close()
