"""The sending half of an HTTP/2 connection that carries CONNECT tunnels: streams, windows, frames out.

Sans-IO: control frames collect in `out`; DATA payloads never pass through here, only their headers do
(`data_header_into`). `h2_tunnel` adds the receiving half. RFC 9113; values of docs/WIRE.md#settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from agent.wire import h2_frames as frames
from agent.wire import h2_headers
from agent.wire.h2_events import Limits, Stream
from agent.wire.h2_frames import FRAME_HEADER, ErrorCode, Setting
from agent.wire.h2_windows import FAST_S, SHARED_S, WEIGH_S, paces, window_change

# Streams reset here, for whose late frames the peer is not to blame. More are forgotten, oldest first.
REMEMBERED_RESETS = 1024
SHUTDOWN_PING = b"ztun-end"
CROWDED_S = 0.1
"""Window that is taken for less than this is of streams that move, not of streams that are not read."""


class H2Sender:
    """State of one connection and all that is sent on it. Not used alone: see `h2_tunnel.H2Tunnels`."""

    def __init__(self, *, is_server: bool, limits: Limits, now_s: float) -> None:
        self.is_server = is_server
        self.limits = limits
        self._now_s = now_s
        self._data_left = 0
        """How much of the DATA frame that is arriving has not."""
        self.updates_earned = 0
        """WINDOW_UPDATEs that a peer may send for the DATA it got."""
        self.out = bytearray()
        """Control frames to send, in order, before any DATA staged later. Take with `data_to_send`."""
        self.streams: dict[int, Stream] = {}
        self.send_window = frames.DEFAULT_WINDOW
        self.receive_window = limits.connection_window_bytes
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.peer_window = frames.DEFAULT_WINDOW
        self.peer_connection_window = frames.DEFAULT_WINDOW
        """The most that the peer ever let wait of all streams together."""
        self.may_grow: Callable[[], bool] = lambda: True
        """Asked before a stream's window grows: whether memory lasts."""
        self.round_trip_s: Callable[[], float] = lambda: FAST_S
        """How long the path to the peer is: a window that holds more than is on its way only makes others wait."""
        self.peer_streams: int | None = None
        """The peer's MAX_CONCURRENT_STREAMS, None while it set no limit."""
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
        self._first_window = limits.first_window_bytes
        self._grown = 0
        """By how much the windows of all streams together exceed their first one."""
        self._granted = limits.connection_window_bytes
        self._consumed = 0
        self._shared_until_s = 0.0
        """Until then what one stream has in a queue keeps others waiting, which receive little."""
        self._roomy_at_s = now_s
        """When the peer last gave back half of its window for all."""
        self._credit_below = limits.connection_window_bytes - limits.connection_window_bytes // 8
        self._weigh_peer_windows()
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

    def _add_stream(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, self.peer_window, self._first_window, self._now_s)
        stream.seen_consumed = self._consumed
        self.streams[stream_id] = stream
        return stream

    def _forget(self, stream: Stream) -> None:
        stream.local_open = stream.remote_open = False
        self._grown -= stream.window - self._first_window
        del self.streams[stream.id]

    def _send_block(
        self, stream_id: int, block: bytes, headers: Iterable[tuple[str, str]], *, ended: bool
    ) -> None:
        block += h2_headers.encode_fields(headers)
        if not self._table_emptied:
            self._table_emptied = True
            block = h2_headers.EMPTY_TABLE + block
        self.out += frames.headers(stream_id, block, ended=ended, frame_bytes=self.peer_frame_bytes)

    # -- data

    def sendable(self, stream: Stream) -> int:
        """How many bytes the next DATA frame of this stream may carry; 0 or less: wait for WindowOpened."""
        if not stream.local_open:
            return 0
        left = self.send_window
        size = min(stream.send_window, left, self.peer_frame_bytes)
        if left < self._scarce_below and len(self.streams) > 1:
            held = self.peer_window - stream.send_window
            if held > 0 and held >= left - self._crowded_below:
                return min(size, self._peer_half - held)
        return size

    def is_crowded(self, now_s: float) -> bool:
        """Half of what the peer lets wait is taken, and stays so: a stream opened now may come to wait for others.

        What moves takes as much for moments. Credit alone is no sign of it, as one of many may still be read.
        """
        return self.send_window < self._crowded_below and now_s - self._roomy_at_s >= CROWDED_S

    def _weigh_peer_windows(self) -> None:
        """What a stream may take of the peer's window for all, after one of the two was announced.

        Peers give credit back when half of a window was consumed, at the latest. So a stream that has half of its
        own outstanding is not read as fast as it sends, and it loses nothing by waiting for its own credit; one with
        less must go on, as its credit may come only then. And once half of the connection's window is held by
        streams that are not read, the others may never make up the half that brings credit for all. So a stream has
        half of its window, or as much as would be left of the other half: one or two have all they can use, many
        leave some to the rest (dynamic thresholds of shared memory switches, Choudhury and Hahne 1998).
        """
        self._peer_half = (self.peer_window + 1) // 2
        self._crowded_below = self.peer_connection_window // 2
        self._scarce_below = self._crowded_below + self.peer_window

    def data_header_into(self, buffer: memoryview, at: int, stream: Stream, size: int) -> None:
        """Write the 9 bytes in front of `size` bytes of payload, and debit both windows.

        Whatever `out` holds must be sent before this frame.
        """
        FRAME_HEADER.pack_into(buffer, at, size >> 8, size & 0xFF, frames.DATA, 0, stream.id)
        stream.send_window -= size
        self.send_window -= size
        # Whoever credits each read by itself, for the stream and for the connection.
        self.updates_earned += 2 + (size >> 10)

    @property
    def unread_bytes(self) -> int:
        """Payload that was received and is not consumed yet, that of streams which are over included."""
        return self._granted - self.receive_window - self._data_left - self._consumed

    def consumed(self, stream: Stream, size: int) -> bool:
        """`size` bytes of payload were handed on. True: a quarter of the window was, so `give_credit` is due."""
        self._consumed += size
        stream.unreturned += size
        return stream.unreturned >= stream.quarter

    def give_credit(self, stream: Stream, now_s: float) -> None:
        """Let the peer send as much again as was consumed: more where the window grows, less where it shrinks."""
        size, stream.unreturned = stream.unreturned, 0
        if not stream.remote_open:
            return
        stream.got += size
        if now_s - stream.weighed_at_s >= WEIGH_S:
            self._weigh(stream, now_s)
        change = window_change(
            stream.window,
            now_s - stream.credited_at_s,
            first=self._first_window,
            most=self.limits.stream_window_bytes,
            room=self.limits.connection_window_bytes - self._grown,
            pace=paces(self.round_trip_s(), is_shared=now_s < self._shared_until_s),
        )
        if change > 0 and not self.may_grow():
            change = 0
        change = max(change, -size)
        stream.credited_at_s = now_s
        stream.window += change
        stream.quarter = stream.window >> 2
        self._grown += change
        size += change
        if size:
            self.out += frames.window_update(stream.id, size)
            stream.receive_window += size

    def _weigh(self, stream: Stream, now_s: float) -> None:
        """Streams of one kind wait for each other anyway, and small windows make them dearer; not so one large one and
        those that ask for little."""
        if 0 < self._consumed - stream.seen_consumed - stream.got < stream.got // 2:
            self._shared_until_s = now_s + SHARED_S
        stream.weighed_at_s, stream.seen_consumed, stream.got = now_s, self._consumed, 0

    def _credit_connection(self) -> None:
        """The window of all streams together is given back on receipt: streams that nobody reads take none of it."""
        size = self.limits.connection_window_bytes - self.receive_window
        self.out += frames.window_update(0, size)
        self._granted += size
        self.receive_window += size

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
