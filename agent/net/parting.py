"""Reset a socket, but not before its application has been given what came before the reset.

Closing with SO_LINGER 0 throws away what is still in the socket's send queue, and no event tells when the other side
has acknowledged all of it. So the queue is looked at (SIOCOUTQ, tcp(7)): at once, and then ever less often.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from collections.abc import Callable

from agent.net.farewell import close
from agent.net.loop import BROKEN, WRITABLE, Loop, Timer

PATIENCE_S = 10.0
"""A reader that has taken nothing for so long is reset without the rest (docs/WIRE.md#ends)."""
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.001, 0.1


class Parting:
    """Owns `sock` from here on: sends `backlog`, with `ends_first` a FIN, and then the RST.

    `backlog` gets shorter as it is sent, which `sent(bytes)` is told of. `done()` is called once, when the socket is
    closed; never from inside the constructor.
    """

    __slots__ = (
        "_backlog",
        "_done",
        "_ends_first",
        "_left",
        "_loop",
        "_next_look_s",
        "_sent",
        "_since_s",
        "_sock",
        "_timer",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        backlog: bytearray,
        *,
        ends_first: bool,
        sent: Callable[[int], object],
        done: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._backlog = backlog
        self._ends_first = ends_first
        self._sent = sent
        self._done = done
        self._next_look_s = _FIRST_LOOK_S
        self._left = sys.maxsize
        self._since_s = loop.now()
        self._timer: Timer | None = None
        loop.watch(sock.fileno(), self._on_ready, self._on_crash)
        loop.soon(self._start)

    def cut(self) -> None:
        """Reset now, whatever was not delivered."""
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.leave(self._sock.fileno())
        close(self._sock, reset=True)
        self._loop.soon(self._done)

    def _start(self) -> None:
        if self._sock.fileno() >= 0:
            self._send()
            self._look()

    def _on_ready(self, mask: int) -> None:
        # No error: an edge of a former owner of this descriptor number.
        if mask & BROKEN and self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.cut()
        elif mask & WRITABLE and self._backlog:
            self._send()

    def _on_crash(self, error: BaseException) -> None:
        self.cut()

    def _send(self) -> None:
        backlog = self._backlog
        try:
            while backlog:
                with memoryview(backlog) as view:
                    size = self._sock.send(view)
                del backlog[:size]
                self._sent(size)
            if self._ends_first:
                self._ends_first = False
                self._sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # the application was faster: there is nobody to deliver to
            self.cut()

    def _look(self) -> None:
        """Close once everything is acknowledged, or when nothing has moved for too long."""
        self._timer = None
        if self._sock.fileno() < 0:
            return
        left, now_s = len(self._backlog) + unacknowledged(self._sock), self._loop.now()
        if left < self._left:
            self._left, self._since_s = left, now_s
        if not left or now_s - self._since_s >= PATIENCE_S:
            self.cut()
            return
        self._timer = self._loop.later(self._next_look_s, self._look)
        self._next_look_s = min(2 * self._next_look_s, _LONGEST_LOOK_S)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes of the send queue that the other side's kernel has not confirmed."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ is the same number
    return int.from_bytes(answer, sys.byteorder)
