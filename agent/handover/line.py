"""One end of the socket between giver and taker, on the loop of a worker: messages with their fds, never blocking."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from agent.handover.messages import FDS_PER_FRAME, Decoder, Message, Piece, ProtocolError, encode
from agent.net.loop import Loop, Timer

READ_BYTES = 1 << 18
READS_PER_TURN = 8
SEND_BYTES, URGENT_BYTES = 1 << 16, 1 << 17
"""What the kernel holds of what was sent (it takes twice as much): there is always room for a word that must arrive."""
RETRY_S = 0.005
LAST_PATIENCE_S = 1.0


class Gone(Exception):
    """The other end is gone; the text says how that showed."""


class Line:
    """`heard` gets each message in its order, `ended` the end, once: Gone, ProtocolError, or what `heard` raised.

    It may still say something then; afterwards, or by `close`, the line is closed, and neither is called any more.
    """

    def __init__(
        self, loop: Loop, fd: int, heard: Callable[[Message], None], ended: Callable[[BaseException], None]
    ) -> None:
        self._loop = loop
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._heard, self._ended = heard, ended
        self._decoder = Decoder()
        self._pieces: deque[Piece] = deque()
        self._retry: Timer | None = None
        self._is_open = True

    def start(self) -> None:
        """Hear what is said from now on."""
        self._loop.watch(self._sock.fileno(), self._ready, self._over)

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def is_flushed(self) -> bool:
        """The kernel has all that was said."""
        return not self._pieces

    def send(self, message: Message) -> None:
        """Say it, as soon as there is room: its fds stay the caller's, until `is_flushed`. Raises Gone."""
        self._pieces += encode(message)
        self._flush()

    def send_at_once(self, message: Message) -> bool:
        """A word that must be there before anything else happens: whether the kernel has it. Raises Gone."""
        assert self.is_flushed, "it must not overtake what was said before"
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, URGENT_BYTES)
        self.send(message)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        return self.is_flushed

    def send_last(self, message: Message) -> None:
        """At the end of this process: wait for the room, for a second at most, and close."""
        if not self._is_open:
            return
        with suppress(OSError):
            self._sock.settimeout(LAST_PATIENCE_S)
            for piece in (*self._pieces, *encode(message)):
                self._sock.sendall(piece.data)
        self.close()

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._retry is not None:
            self._retry.cancel()
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        self._pieces.clear()
        self._decoder.close()

    def _flush(self) -> None:
        while self._pieces:
            piece = self._pieces[0]
            try:
                if piece.fds:
                    sent = socket.send_fds(self._sock, [piece.data], piece.fds)
                else:
                    sent = self._sock.send(piece.data)
            except (BlockingIOError, InterruptedError):
                return  # an edge tells of room
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise Gone(f"nothing can be said to it any more: {error.strerror}") from error
                # Too many fds of this user are on their way somewhere; nothing announces that they have arrived.
                self._try_again()
                return
            self._pieces.popleft()
            if sent < len(piece.data):
                self._pieces.appendleft(Piece(memoryview(piece.data)[sent:]))

    def _try_again(self) -> None:
        def again() -> None:
            self._retry = None
            self._ready(0)

        if self._retry is None:
            self._retry = self._loop.later(RETRY_S, again)

    def _ready(self, mask: int) -> None:
        if not self._is_open:
            return
        failure: BaseException | None = None
        try:
            self._flush()
        except Gone as gone:
            failure = gone  # what it has said before counts all the same
        try:
            is_more = self._read()
        except (Gone, ProtocolError) as error:
            failure, is_more = error, False
        if is_more:
            self._loop.soon(lambda: self._ready(0))
        elif failure is not None:
            self._over(failure)

    def _over(self, failure: BaseException) -> None:
        if self._is_open:
            self._ended(failure)
            self.close()

    def _read(self) -> bool:
        """Hear what has arrived; whether there may be more. Raises Gone, ProtocolError."""
        for _ in range(READS_PER_TURN):
            if not self._is_open:
                return False
            try:
                data, fds, flags, _ = socket.recv_fds(
                    self._sock, READ_BYTES, FDS_PER_FRAME, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise Gone(f"the line broke: {error.strerror}") from error
            if not data:
                raise Gone("it is gone")
            lost = bool(flags & socket.MSG_CTRUNC)
            for message in self._messages(data, fds, lost):
                self._heard(message)
        return True

    def _messages(self, data: bytes, fds: list[int], lost: bool) -> Iterator[Message]:
        for message in self._decoder.receive(data, fds, were_fds_lost=lost):
            yield message
            if not self._is_open:
                return
