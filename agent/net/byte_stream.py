"""What carries a TLS connection: a socket, or a tunnel inside of another one (`net.tunnel_stream`).

Both are read, written and watched as a non-blocking socket is, so TLS within a tunnel is the same code as TLS on
a socket.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Protocol

from agent.net.buffers import Buffers
from agent.net.farewell import Farewell, close
from agent.net.loop import Loop, Ready

Crash = Callable[[BaseException], None]
LONG_S = 1.0
# tcpi_min_rtt of struct tcp_info, in microseconds (linux/tcp.h).
_MIN_RTT, _MIN_RTT_AT = struct.Struct("I"), 148


class Parted(Protocol):
    """A stream that is ending by itself."""

    def cut(self) -> None:
        """Do not wait for the peer any more: reset."""


class ByteStream(Protocol):
    """`recv_into`, `recv` and `send` are those of a socket: how many bytes, 0 at the end; BlockingIOError, OSError."""

    @property
    def recv_into(self) -> Callable[[memoryview], int]: ...

    @property
    def recv(self) -> Callable[[int], bytes]: ...

    @property
    def send(self) -> Callable[[memoryview], int]: ...

    @property
    def buffers(self) -> Buffers:
        """The memory that TLS on this stream works in."""

    @property
    def sock(self) -> socket.socket | None:
        """What it can be gone on with elsewhere; None where it is more than a socket."""

    def round_trip_s(self) -> float:
        """How long the path to the peer is, at least; where that is not known, long."""

    def watch(self, on_ready: Ready, on_crash: Crash, mask: int) -> None:
        """Call `on_ready` at every edge of those in `mask`, which are epoll's; nothing is read before."""

    def forget(self) -> None:
        """Watch nothing any more, and do nothing else."""

    def finish(self, unsent: bytearray, *, is_heard_out: bool) -> Parted:
        """Send what is left and end in order. `is_heard_out`: the peer has said its last word, and that was read."""

    def cut(self) -> None:
        """End at once, with a reset for the peer."""


class SocketStream:
    """A socket (connected, non-blocking), which it owns."""

    __slots__ = ("_look_at_s", "_loop", "_round_trip_s", "_sock", "buffers", "recv", "recv_into", "send")

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self.buffers = loop.buffers
        # Bound once: they are called for every message.
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[memoryview], int] = sock.send
        self._round_trip_s = LONG_S
        self._look_at_s = 0.0

    @property
    def sock(self) -> socket.socket:
        return self._sock

    def round_trip_s(self) -> float:
        """The shortest one that the kernel has seen of late; asked for once a second."""
        now_s = self._loop.now()
        if now_s >= self._look_at_s and self._sock.family != socket.AF_UNIX:
            self._look_at_s = now_s + 1.0
            if self._sock.fileno() < 0:  # closed, while what came by it is still being read
                return self._round_trip_s
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT.size + _MIN_RTT_AT)
            (least_us,) = _MIN_RTT.unpack_from(info, _MIN_RTT_AT)
            self._round_trip_s = least_us / 1e6  # all ones where there was none yet: long
        return self._round_trip_s

    def watch(self, on_ready: Ready, on_crash: Crash, mask: int) -> None:
        self._loop.watch(self._sock.fileno(), on_ready, on_crash, mask)

    def forget(self) -> None:
        self._loop.forget(self._sock.fileno())

    def finish(self, unsent: bytearray, *, is_heard_out: bool) -> Parted:
        farewell = Farewell(self._loop, self._sock, unsent, is_heard_out=is_heard_out)
        farewell.start()
        return farewell

    def cut(self) -> None:
        self._loop.leave(self._sock.fileno())
        close(self._sock, reset=True)
