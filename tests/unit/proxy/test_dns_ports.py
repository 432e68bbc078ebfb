"""Ports from which name servers are asked: used again, and yet as hard to guess as if they were not."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import dns.message
import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.proxy.dns_ports import AGAIN_S, LIFE_S, MOST_OPEN, PLACES, QUERIES, AskingPorts

POD, SERVER = "127.0.0.1", "127.0.0.3"
PATIENCE_S = 20.0


class Server:
    """A name server of which the test says what it answers; `asked`: what came, and from which port."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.sock.bind((SERVER, 0))
        self.at = SocketAddress(parse_ip(SERVER), self.sock.getsockname()[1])
        self.asked: list[tuple[bytes, int]] = []

    def has_heard(self, count: int) -> bool:
        try:
            while True:
                query, peer = self.sock.recvfrom(4096)
                self.asked.append((query, peer[1]))
        except BlockingIOError:
            return len(self.asked) >= count

    def say(self, data: bytes, port: int) -> None:
        self.sock.sendto(data, (POD, port))


class Asker:
    """What a worker's DNS asks by, on loopback. `passed_s` is added to its clock."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.errors: list[BaseException] = []
        self.loop = Loop(lambda: time.monotonic() + self.passed_s, lambda error, _: self.errors.append(error))
        self.ports = AskingPorts(self.loop, SideSockets(None))
        self.ended: list[tuple[bytes, str]] = []

    def ask(self, name: str, server: SocketAddress) -> None:
        query = dns.message.make_query(name, "A", use_edns=False).to_wire()
        self.ports.ask(parse_ip(POD), server, query, lambda answer, error: self.ended.append((answer, error)))

    def until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s
            self.loop.turn(0.01)


@pytest.fixture
def asker() -> Iterator[Asker]:
    made = Asker()
    yield made
    made.ports.forget()
    # Whoever still waits is given up.
    for _ in range(2):
        made.passed_s += 2 * AGAIN_S
        made.loop.turn(0)
    made.loop.close()
    assert not made.errors


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.sock.close()


def answered(query: bytes) -> bytes:
    return query[:2] + b"\x81\x80" + query[4:]


def test_each_query_goes_by_one_of_several_ports_with_a_number_of_its_own(
    asker: Asker, server: Server
) -> None:
    count = 3 * PLACES * QUERIES
    for number in range(count):
        asker.ask(f"n{number}.test.", server.at)
    asker.until(lambda: server.has_heard(count))
    ports = [port for _, port in server.asked]
    uses = Counter(ports)
    assert max(uses.values()) <= QUERIES and len(uses) >= 3 * PLACES
    # One after the other by the same port is a chance of one in eight, and a hundred times in a row none.
    same = sum(one == other for one, other in pairwise(ports))
    assert 0 < same < count / 4
    numbers = [int.from_bytes(query[:2], "big") for query, _ in server.asked]
    assert len(set(numbers)) > 0.95 * count
    assert len({(port, number) for port, number in zip(ports, numbers, strict=True)}) == count
    for query, port in server.asked:
        server.say(answered(query), port)
    asker.until(lambda: len(asker.ended) == count)
    assert not any(error for _, error in asker.ended)


def test_a_port_is_given_up_after_a_second(asker: Asker, server: Server) -> None:
    asker.ask("first.test.", server.at)
    asker.until(lambda: server.has_heard(1))
    (query, port) = server.asked[0]
    asker.passed_s += LIFE_S
    asker.loop.turn(0)
    assert not len(asker.ports), "no other query goes by it"
    server.say(answered(query), port)
    asker.until(lambda: bool(asker.ended))
    assert asker.ended == [(answered(query), "")], "but its answer still comes"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as next_one:
        next_one.bind((POD, port))  # closed with its last answer


def test_what_is_forged_is_not_taken(asker: Asker, server: Server) -> None:
    asker.ask("far.test.", server.at)
    asker.until(lambda: server.has_heard(1))
    (query, port) = server.asked[0]
    wrong = [
        bytes((query[0] ^ 1,)) + answered(query)[1:],
        answered(query).replace(b"\3far", b"\3fab"),
        query,
        b"",
        query[:2],
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((SERVER, 0))
        other.sendto(answered(query), (POD, port))
    for each in wrong:
        server.say(each, port)
    asker.loop.turn(0.05)
    assert not asker.ended
    server.say(answered(query), port)
    asker.until(lambda: bool(asker.ended))
    assert asker.ended == [(answered(query), "")]


def test_where_nobody_is_all_that_was_asked_has_failed_and_the_next_has_another_port(
    asker: Asker, server: Server
) -> None:
    nobody = SocketAddress(server.at.ip, server.at.port)
    server.sock.close()
    for number in range(2 * PLACES):
        asker.ask(f"n{number}.test.", nobody)
    asker.until(lambda: len(asker.ended) == 2 * PLACES)
    assert all(error for _, error in asker.ended)
    assert not len(asker.ports)
    back = Server()
    with back.sock:
        asker.ask("far.test.", back.at)
        asker.until(lambda: back.has_heard(1))
        back.say(answered(back.asked[0][0]), back.asked[0][1])
        asker.until(lambda: len(asker.ended) > 2 * PLACES)
    assert asker.ended[-1][1] == ""


def test_ports_are_bounded_whatever_is_asked(asker: Asker, server: Server) -> None:
    for number in range(MOST_OPEN + 50):
        asker.ask("far.test.", SocketAddress(parse_ip(f"127.1.{number // 250}.{1 + number % 250}"), 53))
        assert len(asker.ports) <= MOST_OPEN
    asker.ports.forget()
    assert not len(asker.ports), "an address may be another pod's next"
