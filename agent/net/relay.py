"""Carry bytes between an application's socket and a tunnel, until both directions have ended.

Back-pressure end to end: a socket that does not take bytes stops the peer's credit; a window or a socket
that is full stops the reading here. `net.relay_end` has what becomes of ends and resets.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

from agent.model.unit import PlainValue, State, StateReader
from agent.net.loop import BROKEN, EDGES, ENDED, INBOUND_EDGES, READABLE, WRITABLE, Loop
from agent.net.parting import PATIENCE_S
from agent.net.plain_relay import PlainRelay
from agent.net.relay_end import EndingRelay
from agent.net.tunnel_link import TunnelLink
from agent.wire.h2_frames import MAX_STREAM_ID

__all__ = ["PlainRelay", "TunnelRelay"]


class TunnelRelayOwner(Protocol):
    def finished(self, relay: TunnelRelay) -> None:
        """Both directions have ended; called once, never from inside a call of the relay."""


class TunnelRelay(EndingRelay):
    """Owns `sock` and `tunnel`; carries bytes from `start` on."""

    __slots__ = ()

    def start(self) -> None:
        """Bytes that came early are delivered at once."""
        # One that was accepted just now has room, and would be reported for that alone. Where it is watched already, to
        # ask for room as well costs no more.
        self._hears_room = bool(self._backlog) or self._loop.is_watched(self._fd)
        mask = EDGES if self._hears_room else INBOUND_EDGES
        self._loop.watch(self._fd, self._on_ready, self._on_crash, mask)
        self._tunnel.attach(self)
        if self._backlog:  # of one that was taken over
            self._backlogs.hold(self, len(self._backlog))
        if self._lost:
            self._is_readable = self._ended = True
            self._hurry()
            self._loop.soon(self._pump)

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
            sent = self._send(pieces[0]) if len(pieces) == 1 else self._send_pieces(pieces[:512])
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
            self._hear_room()
            self._backlogs.hold(self, size - sent)
            for piece in pieces:
                if sent < len(piece):
                    backlog += piece[sent:]
                    sent = 0
                else:
                    sent -= len(piece)

    def _hear_room(self) -> None:
        if not self._hears_room:
            self._hears_room = True
            self._loop.watch(self._fd, self._on_ready, self._on_crash)

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

    def _tell(self) -> None:
        # The owner holds the relay and the relay its owner; apart, both go without the garbage collector.
        owner = self._owner
        del self._owner
        owner.finished(self)

    # -- going on elsewhere

    @property
    def stays(self) -> str:
        """Why it can only go on here; empty: it may be frozen. Its connection goes without it then (`leave`)."""
        return "it has ended, and its last bytes are being delivered" if self._is_over else ""

    def leave(self) -> None:
        """It stays where its connection does not: what it has still to deliver is no more counted there."""
        if self._backlog:
            self._link.consumed(self._stream, len(self._backlog))

    def freeze(self) -> None:
        """Stop without an end, and without a word to the owner: it goes on from `state` and `sock`, with its link.

        Where it `stays`, never.
        """
        self._is_over = True
        self._loop.forget(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        if self._is_waiting:
            self._link.waiters.discard(self)
        if self._backlog:
            self._backlogs.release(self, len(self._backlog))
        del self._owner

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def owner(self) -> TunnelRelayOwner:
        """Of one that is not over."""
        return self._owner

    def state(self) -> State:
        """Which directions are open follows from the stream."""
        lost: State | None = None
        if self._lost:
            left_s = self._patience_left_s
            if self._timer is not None:
                left_s = max(0.0, self._timer.at_s - self._loop.now())
            lost = {"error": self._lost, "carried": self._carried, "left_s": left_s}
        return {
            "stream": self._stream.id,
            "backlog": bytes(self._backlog),
            "up_bytes": self._up_bytes,
            "down_bytes": self._down_bytes,
            "lost": lost,
        }

    @classmethod
    def from_state(
        cls, loop: Loop, value: PlainValue, sock: socket.socket, link: TunnelLink, owner: TunnelRelayOwner
    ) -> TunnelRelay:
        """As `state` was, not started. `link` was made of the state of its link. Raises BadUnit; the socket stays the
        caller's then."""
        fields = StateReader("a relay", value)
        tunnel = link.tunnel_on(fields.integer("stream", 1, MAX_STREAM_ID))
        if not tunnel.is_free:
            raise fields.refuse("stream", "something else carries its bytes")
        made = cls(loop, sock, tunnel, owner)
        made._up_open, made._down_open = made._stream.local_open, made._stream.remote_open
        made._backlog += fields.blob("backlog", link.most_unread_bytes)
        made._up_bytes, made._down_bytes = fields.integer("up_bytes"), fields.integer("down_bytes")
        if fields.has("lost"):
            lost = fields.within("lost")
            made._lost = lost.integer("error", 1)
            made._carried = lost.integer("carried", 0, made._up_bytes)
            made._patience_left_s = lost.number("left_s", 0, PATIENCE_S)
            lost.done()
        fields.done()
        if not (made._backlog or made._up_open or made._down_open):
            raise fields.refuse("stream", "it is over, and nothing is left to deliver")
        sock.setblocking(False)
        tunnel.sink = made  # and nobody else
        return made

    def let_go(self) -> None:
        """It goes on elsewhere. Whatever else was done to the socket would be done to it there."""
        self._sock.close()
