"""Carry bytes between an application's socket and a tunnel, until both directions have ended.

Back-pressure end to end: a socket that does not take bytes stops the peer's credit; a window or a socket
that is full stops the reading here. Ends and resets map as docs/WIRE.md#ends: each direction ends by itself,
an application's reset becomes the end of its direction, RST_STREAM(CANCEL or NO_ERROR) is an end.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Protocol

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.loop import ENDED, READABLE, WRITABLE, Loop
from agent.net.plain_relay import PlainRelay
from agent.net.tunnel import Tunnel
from agent.wire.h2_frames import ErrorCode

__all__ = ["PlainRelay", "TunnelRelay"]

_GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)


class TunnelRelayOwner(Protocol):
    def finished(self, relay: TunnelRelay) -> None:
        """Both directions have ended; called once, never from inside a call of the relay."""


class TunnelRelay:
    """Owns `sock` and `tunnel`; carries bytes from `start` on.

    `sent_bytes` went from the client to the server, `received_bytes` back, whichever end this is; both may
    be read at any time. `error` is empty when the connection ended as one may.
    """

    __slots__ = (
        "_backlog",
        "_backlogs",
        "_down_bytes",
        "_down_open",
        "_ended",
        "_fd",
        "_is_over",
        "_is_readable",
        "_is_waiting",
        "_link",
        "_loop",
        "_owner",
        "_recv_into",
        "_send",
        "_sock",
        "_stage",
        "_stream",
        "_tunnel",
        "_up_bytes",
        "_up_open",
        "error",
        "outcome",
    )

    def __init__(self, loop: Loop, sock: socket.socket, tunnel: Tunnel, owner: TunnelRelayOwner) -> None:
        assert tunnel.stream is not None, "a tunnel has a stream once it was requested or answered"
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._tunnel = tunnel
        self._link = tunnel.link
        self._stage = tunnel.link.stage
        self._stream = tunnel.stream
        self._owner = owner
        self._backlog = bytearray()
        self._backlogs = loop.backlogs
        self._up_bytes = self._down_bytes = 0
        self._up_open = self._down_open = True
        self._ended = self._is_over = self._is_readable = self._is_waiting = False
        self.outcome = Outcome.OK
        self.error = ""

    def start(self) -> None:
        """Bytes that came early are delivered at once."""
        self._loop.watch(self._fd, self._on_ready, self._on_crash)
        self._tunnel.attach(self)

    @property
    def sent_bytes(self) -> int:
        return self._down_bytes if self._tunnel.is_server else self._up_bytes

    @property
    def received_bytes(self) -> int:
        return self._up_bytes if self._tunnel.is_server else self._down_bytes

    @property
    def group(self) -> object:
        """The connection that its backlog came over."""
        return self._link

    def abort(self, outcome: Outcome = Outcome.RESET, detail: str = "") -> None:
        """End both sides now: RST to the application, RST_STREAM(CANCEL) to the peer."""
        if not self._is_over:
            self._fail(outcome, detail or outcome.hint)

    # -- socket to tunnel

    def _on_ready(self, mask: int) -> None:
        if mask & ENDED:
            self._ended = True
        if mask & WRITABLE and self._backlog:
            self._send_backlog()
        if mask & READABLE and self._up_open:
            self._is_readable = True
            if not self._is_waiting:
                self._pump()

    def _pump(self) -> None:
        """One batch from the socket into the tunnel."""
        if not self._is_readable or not self._up_open or self._is_over:
            return
        limit = self._stage.sendable(self._stream)
        if limit <= 0:
            if not self._is_waiting:
                self._is_waiting = True
                self._link.waiters.add(self)
            return
        try:
            size = self._stage.forward(self._recv_into, self._stream, limit)
        except BlockingIOError:
            self._is_readable = False
            return
        except OSError:
            size = 0  # an application that resets has ended its direction, as far as the peer is told
        if not size:
            self._end_up()
            return
        self._up_bytes += size
        # A short read has emptied the socket; the next byte is a new edge. Not so the end, once announced.
        if size == self._stage.asked_bytes or self._ended:
            self._loop.soon(self._pump)
        else:
            self._is_readable = False

    def resume(self) -> None:
        self._is_waiting = False
        self._pump()

    def _end_up(self) -> None:
        self._up_open = False
        self._link.end_stream(self._stream)
        self._finish_if_ended()

    # -- tunnel to socket

    def deliver(self, pieces: list[memoryview], size: int, ended: bool) -> None:
        if size:
            self._write(pieces, size)
        if ended and not self._is_over:
            self._down_open = False
            if not self._backlog:
                self._end_down()

    def _write(self, pieces: list[memoryview], size: int) -> None:
        backlog = self._backlog
        if backlog:
            for piece in pieces:
                backlog += piece
            self._backlogs.hold(self, size)
            return
        try:
            sent = self._send(pieces[0]) if len(pieces) == 1 else self._sock.sendmsg(pieces[:512])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._on_write_error(error)
            self._link.consumed(self._stream, size)
            return
        self._down_bytes += sent
        if sent:
            self._link.consumed(self._stream, sent)
        if sent < size:
            self._backlogs.hold(self, size - sent)
            for piece in pieces:
                if sent < len(piece):
                    backlog += piece[sent:]
                    sent = 0
                else:
                    sent -= len(piece)

    def _send_backlog(self) -> None:
        backlog = self._backlog
        try:
            with memoryview(backlog) as view:
                sent = self._send(view)
        except BlockingIOError:
            return
        except OSError as error:
            self._on_write_error(error)
            return
        del backlog[:sent]
        self._backlogs.release(self, sent)
        self._down_bytes += sent
        self._link.consumed(self._stream, sent)
        if not backlog and not self._down_open:
            self._end_down()

    def _end_down(self) -> None:
        if self._up_open:  # else closing the socket says it too
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:  # the application was faster
                pass
        self._finish_if_ended()

    def _on_write_error(self, error: OSError) -> None:
        """The application is gone: nothing can be delivered to it, so the peer need not go on sending."""
        if error.errno in _GONE:
            self._drop_tunnel()
            self._finish(reset=False)
        else:
            self._fail(Outcome.RESET, f"writing to the application: {os.strerror(error.errno or 0)}")

    # -- the end

    def reset(self, clean: bool, detail: str) -> None:
        """The tunnel is gone. An orderly end still lets the application read what was delivered."""
        if self._is_over:
            return
        if not clean:
            failure = self._tunnel.failure
            self._fail(failure.outcome if failure else Outcome.RESET, detail)
            return
        self._up_open = self._down_open = False
        if not self._backlog:
            self._end_down()

    def _finish_if_ended(self) -> None:
        if not self._up_open and not self._down_open and not self._backlog and not self._is_over:
            self._tunnel.is_gone = True
            self._finish(reset=False)

    def _fail(self, outcome: Outcome, detail: str) -> None:
        self.outcome, self.error = outcome, detail
        self._drop_tunnel()
        self._finish(reset=True)

    def _drop_tunnel(self) -> None:
        if self._backlog:
            self._backlogs.release(self, len(self._backlog))
            self._link.consumed(self._stream, len(self._backlog))
            self._backlog = bytearray()
        self._tunnel.reset(ErrorCode.CANCEL)

    def _finish(self, *, reset: bool) -> None:
        self._is_over = True
        self._up_open = self._down_open = False
        if self._is_waiting:
            self._link.waiters.discard(self)
        self._tunnel.sink = self._stream.owner = None
        self._loop.forget(self._fd)
        close(self._sock, reset=reset)
        self._loop.soon(self._tell)

    def _tell(self) -> None:
        # The owner holds the relay and the relay its owner; apart, both go without the garbage collector.
        owner = self._owner
        del self._owner
        owner.finished(self)

    def _on_crash(self, error: BaseException) -> None:
        if not self._is_over:
            self._fail(Outcome.INTERNAL, f"{type(error).__name__}: {error}")
