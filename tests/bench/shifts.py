"""The client of `scripts/bench rotation`: `python -S -E -m tests.bench.shifts shifts HOST PORT COUNT ...` as `load`.

Half of the connections stay, the others leave after each shift, and come anew when the mesh has forgotten them: so some
outlive every certificate, and the others need new handshakes. Whatever is not answered in time and as it was asked
has failed, and is told with why.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import Any

from tests.bench.load import MESSAGE_BYTES, PATIENCE_S, ROUND_EVENTS, Address, SpanOf, main

SHIFT_S = 1.5
REST_S = 2.5
"""Longer than a pool keeps what is not used, as the bench sets it."""
LOOK_S = 0.5
SHOWN = 5


class Exchanger:
    """A connection and its request under way."""

    def __init__(self, sock: socket.socket, message: bytes, stays: bool) -> None:
        self.sock, self.message, self.stays = sock, message, stays
        self.answer = b""
        self.sent_s = 0.0


class Shifts:
    """`count` connections to an echo, half of them in shifts."""

    def __init__(self, address: Address, count: int, patience_s: float = PATIENCE_S) -> None:
        self._address, self._count, self._patience_s = address, count, patience_s
        self._epoll = select.epoll()
        self._live: dict[int, Exchanger] = {}
        self._number = 0
        self._is_leaving = False
        self._lost = 0
        self.failures: list[str] = []
        self.forget()
        self._open(count - count // 2, stays=True)

    @property
    def live(self) -> int:
        return len(self._live)

    def forget(self) -> None:
        """What was before does not count; failures do."""
        self.requests, self.connections = 0, len(self._live)

    def work(self, until_s: float) -> None:
        """Exchange up to a time, one request in flight for each connection."""
        while (now_s := time.monotonic()) < until_s:
            look_s = min(until_s, now_s + LOOK_S)
            while (now_s := time.monotonic()) < look_s:
                for fd, _ in self._epoll.poll(look_s - now_s, ROUND_EVENTS):
                    if fd in self._live:
                        self._heard(fd)
            for fd, exchanger in list(self._live.items()):
                if now_s - exchanger.sent_s > self._patience_s:
                    self._fail(fd, f"no answer in {self._patience_s:g} s")
            lost, self._lost = self._lost, 0
            self._open(lost, stays=True)

    def come(self) -> None:
        """The shift begins."""
        self._is_leaving = False
        self._open(self._count // 2, stays=False)

    def leave(self) -> None:
        """The shift is over: each of it goes when it has its answer."""
        self._is_leaving = True

    def close(self) -> None:
        for fd in list(self._live):
            self._close(fd)
        self._epoll.close()

    def _open(self, count: int, *, stays: bool) -> None:
        for _ in range(count):
            self._number += 1
            self.connections += 1
            try:
                sock = socket.create_connection(self._address, self._patience_s)
            except OSError as error:
                self.failures.append(f"connect: {error}")
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The first byte says that it is an echo; the rest is nobody else's.
            message = (b"E%d;" % self._number).ljust(MESSAGE_BYTES, b"x")
            self._live[sock.fileno()] = exchanger = Exchanger(sock, message, stays)
            self._epoll.register(sock, select.EPOLLIN)
            self._ask(sock.fileno(), exchanger)

    def _ask(self, fd: int, exchanger: Exchanger) -> None:
        exchanger.answer, exchanger.sent_s = b"", time.monotonic()
        try:
            os.write(fd, exchanger.message)
        except OSError as error:
            self._fail(fd, f"send: {error}")

    def _heard(self, fd: int) -> None:
        exchanger = self._live[fd]
        try:
            data = os.read(fd, MESSAGE_BYTES)
        except OSError as error:
            self._fail(fd, f"receive: {error}")
            return
        exchanger.answer += data
        if not data:
            self._fail(fd, "the connection ended in the middle of an exchange")
        elif not exchanger.message.startswith(exchanger.answer):
            self._fail(fd, "the answer is not what was asked")
        elif len(exchanger.answer) == MESSAGE_BYTES:
            self.requests += 1
            if self._is_leaving and not exchanger.stays:
                self._close(fd)
            else:
                self._ask(fd, exchanger)

    def _fail(self, fd: int, why: str) -> None:
        self._lost += self._live[fd].stays
        self._close(fd)
        self.failures.append(why)

    def _close(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._live.pop(fd).sock.close()


def shifts(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """Requests, failures and connections of the measured time; of the shifts, those that began in it."""
    crowd, span = Shifts(address, count), span_of()
    while not span.took_s:
        crowd.come()
        crowd.work(time.monotonic() + SHIFT_S)
        crowd.leave()
        crowd.work(time.monotonic() + REST_S)
        if span.tick():
            crowd.forget()
    return {
        "requests": crowd.requests,
        "connections": crowd.connections,
        "failed": len(crowd.failures),
        "failures": crowd.failures[:SHOWN],
        "seconds": span.took_s,
    }


if __name__ == "__main__":
    main(sys.argv[1:], {"shifts": shifts})
