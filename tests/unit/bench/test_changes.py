"""What the bench of changes beneath connections counts: visits, each way in which one fails, packets in clear."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.bench.changes import KILLED, Phase, misses, table
from tests.bench.visits import Book, add

Answer = Callable[[socket.socket], None]


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """One that answers each connection so; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(256):
        connection.sendall(data)


def half(connection: socket.socket) -> None:
    connection.sendall(connection.recv(256)[:5])


def test_visits_are_counted_with_the_time_that_they_took() -> None:
    book = Book()
    with server(echo) as port:
        for _ in range(3):
            book.visit("127.0.0.1", port)
    told = add([book, Book()])
    assert (told["visits"], told["failed"], told["failures"]) == (3, {}, [])
    assert 0 < told["p50_s"] <= told["p99_s"] <= told["longest_s"]  # type: ignore[operator]


@pytest.mark.parametrize(("answer", "why"), [(half, "hear: 5 of 17 bytes"), (None, "connect: ")])
def test_each_way_to_fail_is_told(answer: Answer | None, why: str) -> None:
    book = Book()
    with server(answer or echo) as port:
        if answer is not None:
            book.visit("127.0.0.1", port)
    if answer is None:
        book.visit("127.0.0.1", port)
    (failed,) = book.failed
    assert failed.startswith(why) and book.made == 1 and len(book.failures) == 1


def phase(name: str, failed: dict[str, int], visits: int = 100, plain: int = 0) -> Phase:
    times = {"p50_s": 0.01, "p99_s": 0.02, "longest_s": 0.5}
    return Phase(name, {"killed": 2}, {"a to b": {"visits": visits, "failed": failed, **times}}, plain)


def test_each_target_that_is_missed_is_named() -> None:
    reset = {"hear: [Errno 104] Connection reset by peer": 3}
    good = [phase("one", {}), phase("two", {}), phase(KILLED, reset)]
    assert misses(good, (100, 100)) == []
    assert "one: 2 killed; 100 connections, 0 failed, 0 packets plain" in table(good)
    bad = [phase("one", reset), phase("two", {}, 99, 1), phase(KILLED, {"connect: refused": 1})]
    assert [line.partition(" failed")[0] for line in misses(bad, (100, 100))] == [
        "one, a to b: 3",
        "two: 1 packets without TLS between the nodes, target none",
        f"{KILLED}, a to b: 1",
        "two: 99 connections, target 100 at least",
    ]
