"""Connections that live on while something happens to the mesh: each byte that comes back is checked by its place."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.labtraffic import until

PATTERN = bytes((place * place + 31 * place) >> 3 & 0xFF for place in range(1 << 16))
CHUNK_BYTES = 4096
AHEAD_BYTES = 1 << 15
"""So much of each is on its way at most."""
PAUSE_S = 0.01


@dataclass
class Stream:
    """One connection to an echo server."""

    name: str
    sock: socket.socket
    sent: int = 0
    heard: int = 0
    failure: str = ""

    def turn(self) -> None:
        """Hear what has come, and say some more."""
        try:
            while data := self.sock.recv(1 << 16):
                self._check(data)
            self.failure = self.failure or f"{self.name}: ended after {self.heard} of {self.sent} bytes"
        except BlockingIOError:
            pass
        except OSError as error:
            self.failure = f"{self.name}: {error!r} after {self.heard} of {self.sent} bytes"
        try:
            while not self.failure and self.sent - self.heard < AHEAD_BYTES:
                self.sent += self.sock.send(piece(self.sent, CHUNK_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            self.failure = f"{self.name}: {error!r} after {self.heard} of {self.sent} bytes"

    def _check(self, data: bytes) -> None:
        if data != piece(self.heard, len(data)):
            self.failure = f"{self.name}: wrong bytes at {self.heard}"
        self.heard += len(data)


def piece(start: int, count: int) -> bytes:
    at = start % len(PATTERN)
    return (PATTERN * (2 + count // len(PATTERN)))[at : at + count]


class Streams:
    """All of them, carried by one thread as long as the block."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]]) -> None:
        self.all = [Stream(name, sock) for name, sock in sockets]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Streams:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        for each in self.all:
            each.sock.close()

    @property
    def failures(self) -> list[str]:
        return [each.failure for each in self.all if each.failure]

    def go_on(self, more_bytes: int = 1 << 16) -> None:
        """Return when so much more has come back on each; fails when one has ended."""
        goals = [each.heard + more_bytes for each in self.all]
        until(
            lambda: (
                self.failures or all(each.heard >= goal for each, goal in zip(self.all, goals, strict=True))
            ),
            "every stream goes on",
        )
        assert not self.failures, self.failures

    def _run(self) -> None:
        for each in self.all:
            each.sock.setblocking(False)
        while not self._is_over.wait(PAUSE_S):
            for each in self.all:
                if not each.failure:
                    each.turn()
