"""What one HBONE connection is going to send in this turn: frames, collected in order, sealed in one go.

A relay reads from its socket straight into the stage, behind a hole for the DATA header, so that payload is
neither copied nor allocated on its way into the record layer. The memory is borrowed from the loop's buffers
and given back at the end of the turn.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.net.buffers import STAGE_BYTES
from agent.net.loop import Loop
from agent.net.tls_link import TlsLink
from agent.wire import h2_frames
from agent.wire.h2_events import Stream
from agent.wire.h2_tunnel import H2Tunnels

_HEADER = h2_frames.HEADER_BYTES
# With less room than this left, the stage is sent before more is read.
_LEAST_ROOM_BYTES = 1 << 14


class Stage:
    """Used by one link; `asked_bytes` is how much the last `forward` could have taken."""

    __slots__ = ("_codec", "_fill", "_is_dirty", "_loop", "_memory", "_tls", "asked_bytes")

    def __init__(self, loop: Loop, codec: H2Tunnels, tls: TlsLink) -> None:
        self._loop = loop
        self._codec = codec
        self._tls = tls
        self._memory: memoryview | None = None
        self._fill = 0
        self._is_dirty = False
        self.asked_bytes = 0

    def forward(self, recv_into: Callable[[memoryview], int], stream: Stream, limit: int) -> int:
        """Read up to `limit` bytes from a socket into one DATA frame of `stream`; how many came (0: EOF).

        Raises what `recv_into` raises. The frame goes out at the end of the turn.
        """
        codec = self._codec
        if codec.out:
            self._add_control()
        memory = self._memory
        at = self._fill + _HEADER
        if memory is None:
            memory = self._borrow()
        elif STAGE_BYTES - at < _LEAST_ROOM_BYTES:
            self._send(memory)
            at = _HEADER
        room = STAGE_BYTES - at
        if limit > room:
            limit = room
        self.asked_bytes = limit
        size = recv_into(memory[at : at + limit])
        if size:
            codec.data_header_into(memory, at - _HEADER, stream, size)
            self._fill = at + size
        return size

    def sendable(self, stream: Stream) -> int:
        """How many bytes `forward` may be asked for; 0: wait (`wait`), for window or for the socket."""
        if self._tls.is_congested:
            return 0
        return self._codec.sendable(stream)

    def flush_soon(self) -> None:
        """Send at the end of the turn. Asking again costs nothing."""
        if not self._is_dirty:
            self._is_dirty = True
            self._loop.flush_at_end(self.flush)

    def flush(self) -> None:
        """Seal and send what is there, and give the memory back."""
        self._is_dirty = False
        # While hands are still shaken, control frames wait in the codec.
        if self._tls.is_secured:
            if self._codec.out:
                self._add_control()
            if self._fill or self._tls.wants_to_write:
                self._send(self._memory or self._borrow())
        self.release()

    def release(self) -> None:
        memory, self._memory = self._memory, None
        self._fill = 0
        if memory is not None:
            self._loop.buffers.give_back(memory)

    def _borrow(self) -> memoryview:
        memory = self._memory = self._loop.buffers.stage()
        self.flush_soon()
        return memory

    def _add_control(self) -> None:
        """Control frames go out before DATA that is staged after them."""
        data = self._codec.data_to_send()
        memory = self._memory or self._borrow()
        while data:
            if self._fill == STAGE_BYTES:
                self._send(memory)
            piece = data[: STAGE_BYTES - self._fill]
            memory[self._fill : self._fill + len(piece)] = piece
            self._fill += len(piece)
            data = data[len(piece) :]

    def _send(self, memory: memoryview) -> None:
        size, self._fill = self._fill, 0
        self._tls.seal_and_send(memory, size)
