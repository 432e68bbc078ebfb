"""The end of a connection whose peer is still to read our last words.

Closing a socket with unread bytes sends RST, which destroys what the peer has not read yet. So what is unsent goes out
first, then the sending side is shut, and a little of what still comes is read and dropped: what an honest peer had on
its way. Of more than that nothing is read, so whoever goes on sending meets a window that is closed, and costs nothing.
"""

from __future__ import annotations

import select
import socket

from agent.net.loop import Loop, Timer
from agent.net.sockets import ENDS_IN_ORDER, RESETS

LINGER_S = 1.0
DROPPED_BYTES = 1 << 18
"""How much is read and dropped."""


class Farewell:
    """Owns the socket (connected, non-blocking) from `start` on, and closes it: within LINGER_S in any case.

    It may still be watched by the loop. `is_heard_out`: the peer has said its last word, and that was read.
    """

    __slots__ = ("_is_heard_out", "_left_bytes", "_loop", "_sock", "_timer", "_unsent")

    def __init__(
        self, loop: Loop, sock: socket.socket, unsent: bytearray, *, is_heard_out: bool = False
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._unsent = unsent
        self._is_heard_out = is_heard_out
        self._left_bytes = DROPPED_BYTES
        self._timer: Timer | None = None

    def start(self) -> None:
        # Most peers take it at once and are gone: then nothing needs watching.
        self._go_on()
        if self._sock.fileno() >= 0 and self._timer is None:
            self._timer = self._loop.later(LINGER_S, self._close)
            if self._left_bytes > 0:
                self._loop.watch(self._sock.fileno(), self._on_ready)

    def cut(self) -> None:
        """Close at once, with a reset for the peer."""
        if self._sock.fileno() >= 0:
            self._close(reset=True)

    def _on_ready(self, mask: int) -> None:
        self._go_on()

    def _go_on(self) -> None:
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent)
                del self._unsent[:sent]
            if self._is_heard_out:
                self._close()
                return
            self._sock.shutdown(socket.SHUT_WR)
            while self._left_bytes > 0:
                size = self._sock.recv_into(self._loop.buffers.received)
                if not size:
                    self._close()
                    return
                self._left_bytes -= size
        except BlockingIOError:
            return
        except OSError:  # the peer is gone
            self._close()
            return
        # Not even told of what comes: only of an end of both directions, and of a reset.
        self._loop.watch(self._sock.fileno(), self._on_end, mask=select.EPOLLET)

    def _on_end(self, mask: int) -> None:
        try:
            self._sock.getpeername()
        except OSError:
            self._close()
        # Else an edge of a former owner of this descriptor number.

    def _close(self, *, reset: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unsent.clear()
        self._loop.leave(self._sock.fileno())
        close(self._sock, reset=reset)


def close(sock: socket.socket, *, reset: bool) -> None:
    """Close a socket; with `reset` the peer gets RST instead of an orderly end.

    Nothing else ends in order: a socket of the data path is born so that it is reset by whatever else closes it
    (`sockets.set_stream_options`).
    """
    if sock.fileno() >= 0:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS if reset else ENDS_IN_ORDER)
        except OSError:  # the peer was faster
            pass
    sock.close()
