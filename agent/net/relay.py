"""Carry bytes between an application's socket and a tunnel, until both directions have ended.

Back-pressure end to end: a socket that does not take bytes stops the peer's credit; a window or a socket
that is full stops the reading here. Ends and resets map as docs/WIRE.md#ends: each direction ends by itself, an end
is an end and a reset a reset at the other side, and what came before it is delivered before it.
"""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import Protocol

from agent.model.outcome import Outcome, Refusal
from agent.net.farewell import close
from agent.net.loop import BROKEN, ENDED, READABLE, WRITABLE, Loop, Timer
from agent.net.parting import PATIENCE_S, Parting
from agent.net.plain_relay import PlainRelay, loss
from agent.net.tunnel import Tunnel, reset_code

__all__ = ["PlainRelay", "TunnelRelay"]


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
        "_lost",
        "_owner",
        "_parting",
        "_recv_into",
        "_send",
        "_sock",
        "_stage",
        "_stream",
        "_timer",
        "_tunnel",
        "_up_bytes",
        "_up_open",
        "error",
        "outcome",
    )
    __deletable__ = ("_owner",)

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
        self._lost = 0
        """The error by which the application's connection broke. What it had sent before is still carried."""
        self._parting: Parting | None = None
        self._timer: Timer | None = None
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
        """End both sides now: RST to the application, RST_STREAM to the peer with the code of the outcome."""
        if self._parting is not None:
            self._parting.cut()
            self._drop_backlog()
        elif not self._is_over:
            self._fail(outcome, detail or outcome.hint)

    # -- socket to tunnel

    def _on_ready(self, mask: int) -> None:
        if mask & ENDED:
            self._ended = True
            if mask & BROKEN:
                self._on_broken()
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
        except OSError as error:
            self._lost = self._lost or error.errno or errno.EIO
            size = 0
        if not size:
            if self._lost:
                self._fail_lost()
            else:
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
            self._link.consumed(self._stream, size)
            self._lose(error.errno or errno.EIO)
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
            self._lose(error.errno or errno.EIO)
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

    # -- the application's connection breaks

    def _on_broken(self) -> None:
        """An edge says so. Without an error it is one of a former owner of this descriptor number."""
        if error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(error)

    def _lose(self, error: int) -> None:
        """Nothing can be delivered any more; what the application sent before is still in the socket's queue."""
        if self._lost or self._is_over:
            return
        self._lost = error
        self._drop_backlog()
        if not self._up_open:
            self._fail_lost()
            return
        self._is_readable = self._ended = True
        self._timer = self._loop.later(PATIENCE_S, partial(self._on_patience, self._up_bytes))
        if not self._is_waiting:
            self._loop.soon(self._pump)

    def _on_patience(self, carried: int) -> None:
        """The peer that gives no credit for the rest must not keep the reset from it."""
        if self._up_bytes == carried:
            self._fail_lost()
        else:
            self._timer = self._loop.later(PATIENCE_S, partial(self._on_patience, self._up_bytes))

    def _fail_lost(self) -> None:
        if self._is_over:
            return
        # The kernel says EPIPE for a reset that came after a FIN: that direction has ended in order, so say it.
        if self._lost == errno.EPIPE and self._up_open:
            self._link.end_stream(self._stream)
        why = loss("server" if self._tunnel.is_server else "client", self._lost)
        self._fail(why.outcome, why.detail)

    # -- the end

    def reset(self, why: Refusal, is_clean: bool) -> None:
        """The tunnel is gone; the application is given what came before that."""
        if self._is_over:
            return
        if is_clean and not self._down_open and not self._lost:
            # Its direction had ended: whoever is there only says that nobody reads ours.
            self._up_open = False
            if not self._backlog:
                self._end_down()
            return
        self.outcome, self.error = why.outcome, why.detail
        if self._lost:
            self._finish(reset=True)
            return
        ends_first = not self._down_open
        self._stop()
        self._parting = Parting(
            self._loop,
            self._sock,
            self._backlog,
            ends_first=ends_first,
            sent=self._on_sent,
            done=self._on_parted,
        )

    def _on_sent(self, size: int) -> None:
        self._backlogs.release(self, size)
        self._down_bytes += size
        self._link.consumed(self._stream, size)

    def _on_parted(self) -> None:
        self._parting = None
        self._drop_backlog()
        self._tell()

    def _finish_if_ended(self) -> None:
        if not self._up_open and not self._down_open and not self._backlog and not self._is_over:
            self._tunnel.is_gone = True
            self._finish(reset=False)

    def _fail(self, outcome: Outcome, detail: str) -> None:
        self.outcome, self.error = outcome, detail
        self._drop_backlog()
        self._tunnel.reset(reset_code(outcome))
        self._finish(reset=True)

    def _drop_backlog(self) -> None:
        if self._backlog:
            self._backlogs.release(self, len(self._backlog))
            self._link.consumed(self._stream, len(self._backlog))
            self._backlog = bytearray()

    def _stop(self) -> None:
        """Carry nothing more. The socket stays open."""
        self._is_over = True
        self._up_open = self._down_open = False
        if self._is_waiting:
            self._link.waiters.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._tunnel.sink = self._stream.owner = None

    def _finish(self, *, reset: bool) -> None:
        self._stop()
        self._loop.leave(self._fd)
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
