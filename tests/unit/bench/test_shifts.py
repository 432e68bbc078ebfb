"""What the client of the rotation bench counts: every request, and each way in which one can fail."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from tests.bench.load import MESSAGE_BYTES
from tests.bench.rotation import Result, misses
from tests.bench.shifts import Shifts

Answer = Callable[[socket.socket, bytes], None]
LENGTH_S, PATIENCE_S = 0.1, 30.0


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, int]]:
    """Reads whole messages, and lets `answer` do with the connection what it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while message := connection.recv(MESSAGE_BYTES, socket.MSG_WAITALL):
                answer(connection, message)

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        host, port = listener.getsockname()
        yield str(host), int(port)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def work(crowd: Shifts, condition: Callable[[], bool]) -> None:
    """Exchange until it holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never held"
        crowd.work(time.monotonic() + LENGTH_S)


def echo(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message)


def end(connection: socket.socket, message: bytes) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def garble(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message[::-1])


def nothing(connection: socket.socket, message: bytes) -> None:
    pass


def test_half_stay_and_the_others_go_with_their_shift_and_come_anew() -> None:
    with server(echo) as address, closing(Shifts(address, 8)) as crowd:
        for number in (1, 2):
            crowd.come()
            work(crowd, lambda number=number: crowd.requests >= 8 * number)
            crowd.leave()
            work(crowd, lambda: crowd.live == 4)
            assert (crowd.connections, crowd.failures) == (4 + 4 * number, [])
        crowd.forget()
        assert (crowd.requests, crowd.connections) == (0, 4)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(end, "the connection ended"), (garble, "not what was asked"), (nothing, "no answer in 0.05 s")],
)
def test_a_request_that_is_not_answered_as_asked_has_failed(answer: Answer, why: str) -> None:
    with server(answer) as address, closing(Shifts(address, 2, patience_s=LENGTH_S / 2)) as crowd:
        crowd.come()
        work(crowd, lambda: bool(crowd.failures))
    assert why in crowd.failures[0]
    assert crowd.requests == 0


def test_nobody_at_the_address_is_a_failure() -> None:
    with server(echo) as address:
        pass
    with closing(Shifts(address, 2)) as crowd:
        assert "connect" in crowd.failures[0]


def test_each_target_that_is_missed_is_named() -> None:
    good = Result(100_000, 0, 64, 180.0, {"node-a": 8, "node-b": 9}, 64, 0, 0, [])
    assert misses(good) == []
    bad = Result(99_999, 2, 64, 180.0, {"node-a": 7, "node-b": 8}, 64, 3, 4, ["why"])
    assert [line.split(",")[0] for line in misses(bad)] == [
        "2 requests failed",
        "the agents count 3 handshakes that failed",
        "the agents count 4 connections that failed",
        "99999 requests",
        "7 rotations on node-a",
    ]
