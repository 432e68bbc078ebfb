"""The sending half of an HTTP/2 connection that carries CONNECT tunnels: streams and frames out.

Sans-IO: control frames collect in `out`; DATA payloads never pass through here, only their headers do
(`data_header_into`). `h2_credit` has the windows, `h2_tunnel` adds the receiving half. RFC 9113; values of
docs/WIRE.md#settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from agent.model.unit import State, StateReader
from agent.wire import h2_frames as frames
from agent.wire import h2_headers
from agent.wire.h2_credit import H2Credit
from agent.wire.h2_events import Limits, Stream
from agent.wire.h2_frames import FRAME_HEADER, ErrorCode, Setting

# Streams reset here, for whose late frames the peer is not to blame. More are forgotten, oldest first.
REMEMBERED_RESETS = 1024
SHUTDOWN_PING = b"ztun-end"
MAX_WORDS = 200
"""So much of a peer's reason is kept."""


class H2Sender(H2Credit):
    """State of one connection and all that is sent on it. Not used alone: see `h2_tunnel.H2Tunnels`."""

    def __init__(self, *, is_server: bool, limits: Limits, now_s: float) -> None:
        super().__init__(limits=limits, now_s=now_s)
        self.is_server = is_server
        self.failed = False
        self.goaway_sent = self.goaway_received = False
        self.takes_connect_error_for_end = False
        """The peer is an Envoy that dials (docs/WIRE.md#ends)."""
        self.last_words = ""
        """The text of the peer's GOAWAY."""
        self._closes_door = False
        """The first GOAWAY of a graceful end is out, the second not yet."""
        self._resets: OrderedDict[int, int] = OrderedDict()
        """Streams reset here, with the bytes that the peer may have sent before it knew."""
        self._next_id = 1
        self._last_peer_id = 0
        self._table_emptied = False
        self._greet()

    def _greet(self) -> None:
        limits = self.limits
        values = {
            Setting.INITIAL_WINDOW_SIZE: limits.first_window_bytes,
            Setting.MAX_FRAME_SIZE: limits.frame_bytes,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
        }
        if self.is_server:
            values[Setting.MAX_CONCURRENT_STREAMS] = limits.peer_streams
        else:
            values[Setting.ENABLE_PUSH] = 0
            self.out += frames.PREFACE
        self.out += frames.settings(values)
        extra = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        if extra > 0:
            self.out += frames.window_update(0, extra)

    def data_to_send(self) -> bytes:
        """All control frames that wait, once."""
        data = bytes(self.out)
        self.out.clear()
        return data

    # -- streams

    @property
    def can_open(self) -> bool:
        """No GOAWAY either way, no failure, and stream ids are left."""
        return not (
            self.goaway_received or self.goaway_sent or self.failed or self._next_id > frames.MAX_STREAM_ID
        )

    def open(self, authority: str, headers: Iterable[tuple[str, str]]) -> Stream:
        """Send a CONNECT (client). The caller has checked `can_open` and the peer's limit of streams."""
        if not self.can_open or self.is_server:
            raise AssertionError("open() on a connection that takes no new streams")
        stream = self._add_stream(self._next_id)
        self._next_id += 2
        self._send_block(stream.id, h2_headers.encode_connect(authority), headers, ended=False)
        return stream

    def answer(self, stream: Stream, status: int, headers: Iterable[tuple[str, str]], *, ended: bool) -> None:
        """Send the final answer (server). With `ended`, the stream is over in both directions."""
        if not stream.local_open:
            return
        self._send_block(stream.id, h2_headers.encode_status(status), headers, ended=ended)
        stream.is_answered = True
        if ended:
            stream.local_open = False
            if stream.remote_open:
                # As upstream's h2 does: the rest of the request is not wanted, and nothing went wrong.
                self.reset(stream, ErrorCode.NO_ERROR)
            else:
                self._forget(stream)

    def end(self, stream: Stream) -> None:
        """Half-close: an empty DATA frame with END_STREAM."""
        if not stream.local_open:
            return
        stream.local_open = False
        self.out += frames.frame(frames.DATA, frames.END_STREAM, stream.id)
        if not stream.remote_open:
            self._forget(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """RST_STREAM, unless the stream is over already."""
        if self.streams.get(stream.id) is not stream:
            return
        if code is ErrorCode.CONNECT_ERROR and self.takes_connect_error_for_end:
            code = ErrorCode.INTERNAL_ERROR
        self.out += frames.rst_stream(stream.id, code)
        self._resets[stream.id] = stream.receive_window
        if len(self._resets) > REMEMBERED_RESETS:
            self._resets.popitem(last=False)
        self._forget(stream)

    def _send_block(
        self, stream_id: int, block: bytes, headers: Iterable[tuple[str, str]], *, ended: bool
    ) -> None:
        block += h2_headers.encode_fields(headers)
        if not self._table_emptied:
            self._table_emptied = True
            block = h2_headers.EMPTY_TABLE + block
        self.out += frames.headers(stream_id, block, ended=ended, frame_bytes=self.peer_frame_bytes)

    # -- data

    def data_header_into(self, buffer: memoryview, at: int, stream: Stream, size: int) -> None:
        """Write the 9 bytes in front of `size` bytes of payload, and debit both windows.

        Whatever `out` holds must be sent before this frame.
        """
        FRAME_HEADER.pack_into(buffer, at, size >> 8, size & 0xFF, frames.DATA, 0, stream.id)
        stream.send_window -= size
        self.send_window -= size
        # Whoever credits each read by itself, for the stream and for the connection.
        self.updates_earned += 2 + (size >> 10)

    # -- the end of the connection

    def go_away(self, why: str = "") -> None:
        """Graceful: no new streams, open ones go on. A server announces first and closes the door one
        round trip later, so that streams already on their way are served (docs/WIRE.md#goaway).
        With `why` at once, and with that text: the open ones are going to be reset, and this is the reason."""
        if why:
            self._closes_door = False
            self.shut(ErrorCode.NO_ERROR, why)
        if self.goaway_sent:
            return
        self.goaway_sent = True
        if self.is_server:
            self.out += frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
            self.out += frames.ping(SHUTDOWN_PING)
            self._closes_door = True
        else:
            self.out += frames.goaway(0, ErrorCode.NO_ERROR)

    def shut(self, code: ErrorCode, text: str = "") -> None:
        """Abrupt: GOAWAY with the last stream seen. The caller writes it and closes."""
        self.goaway_sent = True
        self.out += frames.goaway(self._last_peer_id, code, text)

    @property
    def is_finished(self) -> bool:
        """Nothing more will happen on this connection: it may be closed."""
        going = self.goaway_received or (self.goaway_sent and not self._closes_door)
        return going and not self.streams

    # -- going on elsewhere

    def state(self, now_s: float) -> State:
        """Whatever was in `out` has to be sent before."""
        told = super().state(now_s)
        told.update(
            {
                "goaway_sent": self.goaway_sent,
                "goaway_received": self.goaway_received,
                "takes_connect_error_for_end": self.takes_connect_error_for_end,
                "last_words": self.last_words,
                "closes_door": self._closes_door,
                "resets": [{"id": stream_id, "bytes": left} for stream_id, left in self._resets.items()],
                "next_id": self._next_id,
                "last_peer_id": self._last_peer_id,
                "table_emptied": self._table_emptied,
            }
        )
        return told

    def restore(self, fields: StateReader) -> None:
        super().restore(fields)
        self.out.clear()  # the greeting was said long ago
        self.goaway_sent, self.goaway_received = fields.flag("goaway_sent"), fields.flag("goaway_received")
        self.takes_connect_error_for_end = fields.flag("takes_connect_error_for_end")
        self.last_words = fields.text("last_words", MAX_WORDS)
        self._closes_door = fields.flag("closes_door")
        for each in fields.each("resets", REMEMBERED_RESETS):
            self._resets[each.integer("id", 1, frames.MAX_STREAM_ID)] = each.integer("bytes")
            each.done()
        self._next_id = fields.integer("next_id", 1, frames.MAX_STREAM_ID + 2)
        self._last_peer_id = fields.integer("last_peer_id", 0, frames.MAX_STREAM_ID)
        self._table_emptied = fields.flag("table_emptied")
        last = self._last_peer_id if self.is_server else self._next_id - 2
        for stream_id in self.streams:
            if stream_id % 2 == 0 or stream_id > last:
                raise fields.refuse("streams", f"{stream_id} is nobody's; the last is {last}")
