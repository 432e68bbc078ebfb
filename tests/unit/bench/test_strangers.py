"""What newcomers beside a crowd report: what failed, and what was lost of those that stayed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.bench.crowd import LIVE, hello, newcomers


class Echo:
    """Answers every byte; `drops` of the connections that came first get an end instead of the second answer."""

    def __init__(self) -> None:
        self.drops = 0
        self.came = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()
        return str(host), int(port)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.came += 1
            answers = 1 if self.came <= self.drops else None
            threading.Thread(target=self._serve, args=(connection, answers), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket, answers: int | None) -> None:
        with connection:
            try:
                while answers != 0 and (said := connection.recv(1)):
                    connection.sendall(said)
                    answers = None if answers is None else answers - 1
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()


def test_those_that_live_on_are_counted(echo: Echo) -> None:
    served = newcomers(echo.address, 0.2)
    assert (served.failed, served.lost) == (0, 0) and served.p99_us > 0
    assert echo.came > LIVE


def test_those_that_are_gone_are_lost(echo: Echo) -> None:
    echo.drops = 3
    assert newcomers(echo.address, 0.1).lost == 3


def test_the_word_of_a_half_open_one_is_a_whole_hello() -> None:
    said = hello()
    assert said[:2] == b"\x16\x03" and said[5] == 1
    assert len(said) == 5 + int.from_bytes(said[3:5], "big")
