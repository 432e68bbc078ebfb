"""What a worker reads of a queue that was full, and what it says of those that had no room in it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model.address import IP, SockName
from agent.net.datagrams import MOST_OF_A_POD, DatagramDoor
from agent.net.loop import Loop
from agent.net.sockets import IP_RECVORIGDSTADDR, SO_RXQ_OVFL

SENT = 500


@pytest.fixture
def queue() -> Iterator[socket.socket]:
    """One with little room."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        made.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        made.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
        made.bind(("127.0.0.1", 0))
        yield made


def test_what_had_no_room_is_told(queue: socket.socket) -> None:
    loop = Loop(time.monotonic, lambda error, fd: None)
    came: list[bytes] = []
    lost: list[int] = []

    def take(data: bytes, client: IP, peer: SockName, server: IP) -> None:
        came.append(data)

    def read() -> int:
        """How many came of those that are there."""
        before = len(came)
        while True:
            known = len(came)
            loop.turn(0)
            if len(came) == known:
                return len(came) - before

    door = DatagramDoor(loop, queue, take, lost.append)
    door.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.connect(queue.getsockname())
        pod.send(b"query")
        assert read() == 1 and not lost
        for _ in range(SENT):
            pod.send(b"query")
        had_room = read()
        assert 0 < had_room < SENT
        pod.send(b"the next one says it")
        assert read() == 1 and sum(lost) == SENT - had_room
        pod.send(b"once")
        assert read() == 1 and sum(lost) == SENT - had_room
    door.close()
    loop.close()


def test_who_sends_little_does_not_wait_for_who_sends_much(queue: socket.socket) -> None:
    queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    loop = Loop(time.monotonic, lambda error, fd: None)
    came: list[bytes] = []
    lost: list[int] = []
    door = DatagramDoor(loop, queue, lambda data, client, peer, server: came.append(data), lost.append)
    door.start()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour,
    ):
        neighbour.bind(("127.0.0.2", 0))
        for _ in range(200):
            flood.sendto(b"flood", queue.getsockname())
        neighbour.sendto(b"mine", queue.getsockname())
        while b"mine" not in came:
            loop.turn(0)
        assert came.index(b"mine") < 5 and not lost
        while len(came) < 201:
            loop.turn(0)
        for _ in range(2 * MOST_OF_A_POD):
            flood.sendto(b"flood", queue.getsockname())
        neighbour.sendto(b"mine", queue.getsockname())
        while came.count(b"mine") < 2:
            loop.turn(0)
        assert sum(lost) > 0, "what one pod has waiting is bounded"
    door.close()
    loop.close()


def test_what_the_kernel_lets_through_at_once_has_room() -> None:
    source = (Path(__file__).parents[3] / "bpf/include/ztun_hold.h").read_text()
    (burst,) = re.findall(r"#define DNS_BURST (\d+)", source)
    assert int(burst) <= MOST_OF_A_POD
