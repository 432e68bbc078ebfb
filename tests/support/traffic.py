"""Bytes through sockets that do not block: push all there is room for, take all that is there."""

from __future__ import annotations

import random
import socket


def take_into(sock: socket.socket, got: bytearray) -> bool:
    """Read what is there; true at the end of the stream."""
    try:
        while piece := sock.recv(1 << 18):
            got += piece
    except BlockingIOError:
        return False
    return True


class Flow:
    """Push `size` random bytes into one socket and collect what comes out of another, then end the stream."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, size: int, seed: int, *, ends: bool = True
    ) -> None:
        self.ends = ends
        self.source, self.sink = source, sink
        self.data = memoryview(random.Random(seed).randbytes(size))
        self.sent = 0
        self.got = bytearray()
        self.is_done = False

    def push(self) -> None:
        try:
            while self.sent < len(self.data):
                self.sent += self.source.send(self.data[self.sent : self.sent + (1 << 18)])
                if self.sent == len(self.data) and self.ends:
                    self.source.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass

    def step(self) -> bool:
        self.push()
        if not self.is_done:
            self.is_done = take_into(self.sink, self.got)
        return self.is_done
