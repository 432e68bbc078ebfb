"""A connection that is used while something else goes on: one process is its client and its server, far from the
worker that relays it. Round trips one after the other, each a millisecond after the one before."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from typing import NamedTuple

PAUSE_S = 0.001
TEXT = b"ping"


class RoundTrips(NamedTuple):
    count: int
    median_ms: float
    p99_ms: float
    longest_ms: float

    def __str__(self) -> str:
        return (
            f"{self.count} round trips: p50 {self.median_ms:.1f}, p99 {self.p99_ms:.1f},"
            f" longest {self.longest_ms:.1f} ms"
        )


class Pings:
    """The child that pings through the connection `client`, whose other end arrives at `listener`."""

    def __init__(self, client: socket.socket, listener: socket.socket) -> None:
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._ask)
            try:
                _ping(client, listener, asked, tell)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(tell)
        client.close()
        listener.close()

    def since_last(self) -> RoundTrips:
        """Those since this was asked before. Blocks: ask when nothing else is to be measured."""
        os.write(self._ask, b"x")
        length = int.from_bytes(os.read(self._told, 4), "big")
        return RoundTrips(*json.loads(os.read(self._told, length)))

    def end(self) -> None:
        os.close(self._ask)
        os.close(self._told)
        os.waitpid(self._child, 0)


def _ping(client: socket.socket, listener: socket.socket, asked: int, tell: int) -> None:
    client.sendall(TEXT)
    server, _ = listener.accept()
    took_s: list[float] = []
    sent_s: float | None = time.monotonic()
    while True:
        ready, _, _ = select.select([client, server, asked], [], [], None if sent_s is not None else PAUSE_S)
        if server in ready:
            server.sendall(server.recv(4096))
        if client in ready and sent_s is not None:
            if not client.recv(4096):
                return
            took_s.append(time.monotonic() - sent_s)
            sent_s = None
        if asked in ready:
            if not os.read(asked, 1):
                return
            text = json.dumps(_summary(took_s)).encode()
            os.write(tell, len(text).to_bytes(4, "big") + text)
            took_s = []
        if not ready:
            sent_s = time.monotonic()
            client.sendall(TEXT)


def _summary(took_s: list[float]) -> RoundTrips:
    ms = sorted(each * 1e3 for each in took_s) or [0.0]
    return RoundTrips(len(took_s), ms[len(ms) // 2], ms[len(ms) * 99 // 100], ms[-1])
