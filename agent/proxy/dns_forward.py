"""Asks a pod's own name server over TCP in the pod's name, each query by a connection of its own.

The server sees the pod's address, as if the pod had asked by itself. Over UDP: `dns_ports`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from agent.dns import records
from agent.dns.framing import framed, take_message
from agent.dns.records import MalformedMessage
from agent.model.address import IP, SocketAddress
from agent.net.dial import Dial, Dialler
from agent.net.loop import BROKEN, Loop, Timer
from agent.proxy.dns_ports import GIVE_UP_S, READ_BYTES, OnEnd


class TcpExchange:
    """A query on its way; the owner of its dial. `on_end` is called once, from the loop."""

    def __init__(
        self, loop: Loop, query: bytes, on_end: OnEnd, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._loop = loop
        self._query = random_bytes(2) + query[2:]
        self._on_end: OnEnd | None = on_end
        self._sock: socket.socket | None = None
        self._timer: Timer | None = None
        self._dial: Dial | None = None
        self._unsent = framed(self._query)
        self._arrived = bytearray()

    def start(self, dialler: Dialler, client: IP, server: SocketAddress) -> None:
        self._timer = self._loop.later(GIVE_UP_S, self._give_up)
        self._dial = dialler.dial(server, SocketAddress(client, 0), self)

    def cancel(self) -> None:
        """End without a word."""
        self._on_end = None
        self._stop()

    def connected(self, sock: socket.socket) -> None:
        self._dial, self._sock = None, sock
        self._loop.watch(sock.fileno(), self._on_ready, self._on_crash)
        self._on_ready(0)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self._dial = None
        self._finish(b"", error.strerror or str(error))

    def _finish(self, answer: bytes, error: str) -> None:
        on_end, self._on_end = self._on_end, None
        self._stop()
        if on_end is not None:
            on_end(answer, error)

    def _stop(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.leave(sock.fileno())
            sock.close()

    def _give_up(self) -> None:
        self._finish(b"", f"no answer in {GIVE_UP_S:g} s")

    def _on_crash(self, error: BaseException) -> None:
        self._finish(b"", f"a defect in ztun: {error}")

    def _is_answer(self, data: bytes) -> bool:
        try:
            return records.answers(data, self._query)
        except MalformedMessage:
            return False

    def _on_ready(self, mask: int) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            if self._unsent:
                self._unsent = self._unsent[sock.send(self._unsent) :]
            while True:
                data = sock.recv(READ_BYTES)
                if not data:
                    self._finish(b"", "the name server closed the connection")
                    return
                self._arrived += data
                if self._has_whole():
                    return
        except BlockingIOError:
            if mask & BROKEN:
                self._finish(b"", "the connection to the name server broke")
        except OSError as error:
            self._finish(b"", error.strerror or str(error))

    def _has_whole(self) -> bool:
        answer = take_message(self._arrived)
        if answer is None:
            return False
        if self._is_answer(answer):
            self._finish(answer, "")
        else:
            self._finish(b"", "the name server answered something else")
        return True
