"""Asks a pod's own name server in the pod's name: one exchange over UDP or TCP, with a port and a number of its own.

The server sees the pod's address, as if the pod had asked by itself. Over UDP each exchange has a socket that is
connected to the server: nobody else's datagrams reach it, the kernel programs know by it which answers are not for the
pod (`bpf/to_pod.c`), and whoever forges one has to guess port and number.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from random import Random

from agent.dns import records
from agent.dns.framing import framed, take_message
from agent.dns.records import MalformedMessage
from agent.model.address import IP, SocketAddress
from agent.net.dial import Dial, Dialler
from agent.net.loop import BROKEN, Loop, Timer
from agent.net.sockets import DATAGRAM, SideSockets

AGAIN_S = 2.0
"""A datagram without an answer is sent once more after this."""
GIVE_UP_S = 4.5
"""Below the five seconds after which resolvers ask anew by themselves, or ask another server."""
MOST_ANSWER_BYTES = 1232
"""Asked for over UDP, at most: fragments of an answer would not be recognised."""
READ_BYTES = 1 << 16

OnEnd = Callable[[bytes, str], None]
"""The answer, with the number of the exchange; or nothing, and why."""


class Exchange:
    """A query on its way. `on_end` is called once, from the loop."""

    def __init__(self, loop: Loop, query: bytes, rng: Random, on_end: OnEnd) -> None:
        self._loop = loop
        self._query = rng.getrandbits(16).to_bytes(2, "big") + query[2:]
        self._on_end: OnEnd | None = on_end
        self._sock: socket.socket | None = None
        self._timer: Timer | None = None

    def cancel(self) -> None:
        """End without a word."""
        self._on_end = None
        self._stop()

    def _finish(self, answer: bytes, error: str) -> None:
        on_end, self._on_end = self._on_end, None
        self._stop()
        if on_end is not None:
            on_end(answer, error)

    def _stop(self) -> None:
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


class UdpExchange(Exchange):
    def start(self, sockets: SideSockets, client: IP, server: SocketAddress) -> None:
        """Raises OSError, MalformedMessage."""
        self._query = records.fitted(self._query, MOST_ANSWER_BYTES)
        family = socket.AF_INET if server.ip.version == 4 else socket.AF_INET6
        sock = self._sock = sockets.take(family | DATAGRAM)
        try:
            sock.bind((str(client), 0))
            sock.connect((str(server.ip), server.port))
            self._send(sock)
        except OSError:
            self.cancel()
            raise
        self._loop.watch(sock.fileno(), self._on_ready, self._on_crash, select.EPOLLIN)
        self._timer = self._loop.later(AGAIN_S, self._again)

    def _send(self, sock: socket.socket) -> None:
        try:
            sock.send(self._query)
        except BlockingIOError:
            return  # as good as lost on the way: sent again

    def _again(self) -> None:
        sock = self._sock
        if sock is None:
            return
        self._timer = self._loop.later(GIVE_UP_S - AGAIN_S, self._give_up)
        try:
            self._send(sock)
        except OSError as error:
            self._finish(b"", str(error))

    def _on_ready(self, mask: int) -> None:
        while (sock := self._sock) is not None:
            try:
                data = sock.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._finish(b"", error.strerror or str(error))
                return
            if self._is_answer(data):
                self._finish(data, "")


class TcpExchange(Exchange):
    """Is the owner of its dial."""

    def __init__(self, loop: Loop, query: bytes, rng: Random, on_end: OnEnd) -> None:
        super().__init__(loop, query, rng, on_end)
        self._dial: Dial | None = None
        self._unsent = framed(self._query)
        self._arrived = bytearray()

    def start(self, dialler: Dialler, client: IP, server: SocketAddress) -> None:
        self._timer = self._loop.later(GIVE_UP_S, self._give_up)
        self._dial = dialler.dial(server, SocketAddress(client, 0), self)

    def connected(self, sock: socket.socket) -> None:
        self._dial, self._sock = None, sock
        self._loop.watch(sock.fileno(), self._on_ready, self._on_crash)
        self._on_ready(0)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self._dial = None
        self._finish(b"", error.strerror or str(error))

    def _stop(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        super()._stop()

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
