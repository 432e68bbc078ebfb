"""A tunnel as what carries another TLS connection: the outer leg of one through a network gateway.

What arrives is copied, as it lies in memory that the outer connection uses for its next bytes, and read in a step of
its own; the peer gets credit for what was read. Ends of a tunnel are those of the connection in it.
"""

from __future__ import annotations

import errno
from collections import deque

from agent.model.outcome import Outcome, Refusal
from agent.net.byte_stream import LONG_S, Crash, Parted
from agent.net.farewell import LINGER_S
from agent.net.loop import ENDED, READABLE, WRITABLE, Loop, Ready, Timer
from agent.net.tunnel import Tunnel, reset_code


class TunnelStream:
    """Owns the tunnel, which was answered: a ByteStream, and the tunnel's sink."""

    __slots__ = (
        "_error",
        "_has_said_end",
        "_is_due",
        "_is_ended",
        "_is_over",
        "_is_waiting",
        "_loop",
        "_on_crash",
        "_on_ready",
        "_pieces",
        "_source",
        "_timer",
        "_tunnel",
        "_unsent",
        "buffers",
    )

    def __init__(self, loop: Loop, tunnel: Tunnel) -> None:
        assert tunnel.stream is not None, "a tunnel has a stream once it is answered"
        self._loop = loop
        self.buffers = loop.inner_buffers
        self._tunnel = tunnel
        self._pieces: deque[memoryview] = deque()
        self._source = memoryview(b"")
        """What is being sent."""
        self._unsent = bytearray()
        """What is still to be sent before the end."""
        self._is_ended = self._has_said_end = self._is_due = self._is_waiting = self._is_over = False
        self._error = ""
        self._timer: Timer | None = None
        self._on_ready: Ready | None = None
        self._on_crash: Crash | None = None

    # -- as a socket

    @property
    def sock(self) -> None:
        return None

    def round_trip_s(self) -> float:
        """Not known; the windows of the outer connection follow its path."""
        return LONG_S

    def recv_into(self, room: memoryview) -> int:
        pieces, at = self._pieces, 0
        while pieces and at < len(room):
            piece = pieces[0]
            size = min(len(piece), len(room) - at)
            room[at : at + size] = piece[:size]
            at += size
            if size < len(piece):
                pieces[0] = piece[size:]
            else:
                pieces.popleft()
        if at:
            self._consumed(at)
            return at
        if self._error:
            raise ConnectionResetError(errno.ECONNRESET, self._error)
        if self._is_ended:
            return 0
        raise BlockingIOError(errno.EAGAIN, "nothing has arrived")

    def recv(self, limit: int) -> bytes:
        data = bytearray(limit)
        with memoryview(data) as room:
            size = self.recv_into(room)
        del data[size:]
        return bytes(data)

    def send(self, data: memoryview) -> int:
        if self._error:
            raise ConnectionResetError(errno.ECONNRESET, self._error)
        tunnel = self._tunnel
        stage, stream = tunnel.link.stage, tunnel.stream
        assert stream is not None
        sent = 0
        while sent < len(data):
            limit = min(stage.sendable(stream), len(data) - sent)
            if limit <= 0:
                self._wait_for_room()
                break
            self._source = data[sent:]
            sent += stage.forward(self._take_source, stream, limit)
        self._source = memoryview(b"")
        if not sent and data:
            raise BlockingIOError(errno.EAGAIN, "the tunnel takes nothing now")
        return sent

    def watch(self, on_ready: Ready, on_crash: Crash, mask: int) -> None:
        is_first = self._on_ready is None
        self._on_ready, self._on_crash = on_ready, on_crash
        if is_first:
            self._tunnel.attach(self)

    def forget(self) -> None:
        raise AssertionError("it stays where its tunnel is")

    def finish(self, unsent: bytearray, *, is_heard_out: bool) -> Parted:
        self._on_ready = self._on_crash = None
        self._unsent = unsent
        self._timer = self._loop.later(LINGER_S, self.cut)
        self._drop()
        self._send_rest()
        return self

    def cut(self) -> None:
        if not self._is_over:
            self._stop()
            self._tunnel.reset(reset_code(Outcome.RESET))

    # -- as a sink

    def deliver(self, pieces: list[memoryview], size: int, ended: bool) -> None:
        if self._on_ready is None:
            self._consumed(size)
        else:
            self._pieces.extend([memoryview(bytes(piece)) for piece in pieces])
        self._is_ended = self._is_ended or ended
        self._due()
        if ended and self._timer is not None:
            self._end_if_done()

    def resume(self) -> None:
        self._is_waiting = False
        if self._timer is not None:
            self._send_rest()
        else:
            self._call(WRITABLE)

    def reset(self, why: Refusal, is_clean: bool) -> None:
        # The detail is for the log of the connection in the tunnel.
        self._error = why.detail or why.outcome.hint
        if self._timer is not None:
            self._stop()
        else:
            self._due()

    # -- steps

    def _take_source(self, room: memoryview) -> int:
        size = min(len(room), len(self._source))
        room[:size] = self._source[:size]
        return size

    def _wait_for_room(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._tunnel.link.waiters.add(self)

    def _due(self) -> None:
        if not self._is_due and self._on_ready is not None:
            self._is_due = True
            self._loop.soon(self._tell)

    def _tell(self) -> None:
        self._is_due = False
        self._call(READABLE if self._is_ended or self._error else READABLE & ~ENDED)

    def _call(self, mask: int) -> None:
        on_ready, on_crash = self._on_ready, self._on_crash
        if on_ready is None:
            return
        try:
            on_ready(mask)
        except Exception as error:
            if on_crash is not None:
                on_crash(error)
            raise

    def _consumed(self, size: int) -> None:
        if size and not self._tunnel.is_gone and self._tunnel.stream is not None:
            self._tunnel.link.consumed(self._tunnel.stream, size)

    def _drop(self) -> None:
        size = sum(map(len, self._pieces))
        self._pieces.clear()
        self._consumed(size)

    def _send_rest(self) -> None:
        try:
            while self._unsent:
                with memoryview(self._unsent) as view:
                    sent = self.send(view)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._stop()
            return
        if not self._is_over and not self._has_said_end:
            assert self._tunnel.stream is not None
            self._has_said_end = True
            self._tunnel.link.end_stream(self._tunnel.stream)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_ended and self._has_said_end and not self._is_over:
            self._tunnel.is_gone = True
            self._stop()

    def _stop(self) -> None:
        self._is_over = True
        self._drop()
        self._unsent.clear()
        if self._is_waiting:
            self._tunnel.link.waiters.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._tunnel.sink = None
        if self._tunnel.stream is not None:
            self._tunnel.stream.owner = None
