"""HTTP/2 for HBONE, sans-IO: many CONNECT tunnels over one connection, either end (RFC 9113).

`receive(bytes, now) -> events`, `data_to_send()`, `tick(now)`. Strict towards the peer, bounded in memory,
and without a copy of any payload: DATA comes out as views of what was received, in pieces as they arrive.
`h2_send` is what goes out and the state of it all, `h2_receive` what comes in, this file what it means.
Knows no sockets, no TLS, no mesh.
"""

from __future__ import annotations

from agent.model.unit import PlainValue, State, StateReader
from agent.wire import h2_frames as frames
from agent.wire.h2_events import (
    CLIENT_LIMITS,
    SERVER_LIMITS,
    Bucket,
    DataReceived,
    GoAwayReceived,
    HeadReceived,
    Limits,
    Stream,
    StreamReset,
    StreamsChanged,
    WindowOpened,
)
from agent.wire.h2_frames import ErrorCode, H2Error, H2StreamError, Setting
from agent.wire.h2_headers import HeaderReader, check_fields, list_bytes
from agent.wire.h2_receive import MAX_CONTROL_BYTES, H2Receiver
from agent.wire.h2_send import SHUTDOWN_PING

UPDATES_KEPT = 1 << 16
"""Credit that was earned and not used is no licence for a flood later."""
_KEEPALIVE = b"ztunping"
_SIZES = {frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4, frames.PRIORITY: 5}


class H2Tunnels(H2Receiver):
    """One connection. After a ConnectionFailed event nothing more is accepted."""

    def __init__(self, *, is_server: bool, now_s: float, limits: Limits | None = None) -> None:
        super().__init__(
            is_server=is_server, now_s=now_s, limits=limits or (SERVER_LIMITS if is_server else CLIENT_LIMITS)
        )
        self._headers = HeaderReader()
        self._block: bytearray | None = None
        self._block_stream_id = 0
        self._block_ends = False
        self._ping_due_s = now_s + self.limits.ping_after_s
        self._ping_sent = False
        # Generous for any honest peer, and far below what would cost us anything.
        self._resets_allowed = Bucket(200, 50)
        self._refusals_allowed = Bucket(1000, 200)
        self._control_allowed = Bucket(200, 20)

    @classmethod
    def from_state(
        cls, value: PlainValue, *, is_server: bool, now_s: float, limits: Limits | None = None
    ) -> H2Tunnels:
        """Go on as the connection that this is the `state` of. `limits` are our own, of which those that the
        peer was not told hold from now on (`Limits.from_plain`). Raises BadUnit.
        """
        fields = StateReader("the HTTP/2 connection", value)
        own = limits or (SERVER_LIMITS if is_server else CLIENT_LIMITS)
        made = cls(is_server=is_server, now_s=now_s, limits=Limits.from_plain(fields.value("limits"), own))
        made.restore(fields)
        fields.done()
        return made

    def state(self, now_s: float) -> State:
        told = super().state(now_s)
        block = self._block
        told.update(
            {
                "headers": self._headers.state(),
                "block": None if block is None else bytes(block),
                "block_stream_id": 0 if block is None else self._block_stream_id,
                "block_ends": block is not None and self._block_ends,
                "ping_left_s": max(0.0, self._ping_due_s - now_s),
                "ping_sent": self._ping_sent,
                "resets_allowed": self._resets_allowed.state(now_s),
                "refusals_allowed": self._refusals_allowed.state(now_s),
                "control_allowed": self._control_allowed.state(now_s),
            }
        )
        return told

    def restore(self, fields: StateReader) -> None:
        super().restore(fields)
        now_s = self._now_s
        self._headers.restore(fields.value("headers"))
        if fields.has("block"):
            self._block = bytearray(fields.blob("block", MAX_CONTROL_BYTES))
        self._block_stream_id = fields.integer("block_stream_id", 0, frames.MAX_STREAM_ID)
        self._block_ends = fields.flag("block_ends")
        # Who had it may have been more patient.
        most_s = max(self.limits.ping_after_s, self.limits.ping_timeout_s)
        self._ping_due_s = now_s + min(most_s, fields.number("ping_left_s"))
        self._ping_sent = fields.flag("ping_sent")
        self._resets_allowed.restore(fields.within("resets_allowed"), now_s)
        self._refusals_allowed.restore(fields.within("refusals_allowed"), now_s)
        self._control_allowed.restore(fields.within("control_allowed"), now_s)

    def _is_inside_block(self, kind: int, stream_id: int) -> bool:
        return self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block_stream_id)

    # -- time

    def tick(self, now_s: float) -> float | None:
        """Keepalive: send a ping when due. Returns when to call again, or None: the ping was lost.

        A peer that has not even sent SETTINGS when the first is due gets none: it is lost as well.
        A ping first after `ping_after_s`, then that long after each answer (docs/WIRE.md#pings).
        """
        if now_s >= self._ping_due_s:
            if self._ping_sent or not self._greeted:
                return None
            self._ping_sent = True
            self._ping_due_s = now_s + self.limits.ping_timeout_s
            self.out += frames.ping(_KEEPALIVE)
        return self._ping_due_s

    # -- other frames

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        want = _SIZES.get(kind)
        if want is not None and len(payload) != want:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} has {len(payload)} bytes")
        handler = _HANDLERS.get(kind)
        if handler is None:
            self._expect(self._noise_allowed, "frames of unknown type")
        else:
            handler(self, flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0 or (self.is_server and stream_id % 2 == 0):
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        self._block = bytearray(frames.without_padding(flags, payload))
        self._block_stream_id = stream_id
        self._block_ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block()

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        if not payload:
            self._expect(self._noise_allowed, "empty CONTINUATION frames")
        self._block += payload
        if len(self._block) > MAX_CONTROL_BYTES:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & frames.END_HEADERS:
            self._on_block()

    def _on_block(self) -> None:
        block, stream_id, ends = (bytes(self._block or b""), self._block_stream_id, self._block_ends)
        self._block = None
        # Every block is decoded, wanted or not: the compression state of the connection runs through it.
        fields = self._headers.read(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            stream = self._new_stream(stream_id)
            if stream is None:
                return
        try:
            self._on_fields(stream, fields, ends)
        except H2StreamError as error:
            self._violate(stream, error.code, str(error))

    def _new_stream(self, stream_id: int) -> Stream | None:
        """A stream the peer opens; None where it may not, with the refusal sent."""
        if not self.is_server or stream_id <= self._last_peer_id:
            self._late(stream_id, frames.HEADERS)
            return None
        if self.goaway_sent and not self._closes_door:
            return None  # the final GOAWAY told the peer that this stream will not be processed
        self._last_peer_id = stream_id
        stream = self._add_stream(stream_id)
        if len(self.streams) > self.limits.peer_streams:
            self._expect(self._refusals_allowed, "streams above the announced limit")
            self.reset(stream, ErrorCode.REFUSED_STREAM)
            return None
        return stream

    def _on_fields(self, stream: Stream, fields: list[tuple[str, str]], ends: bool) -> None:
        if not stream.remote_open:
            raise H2StreamError(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        size = list_bytes(fields)
        if size > self.limits.header_list_bytes:
            raise H2StreamError(ErrorCode.ENHANCE_YOUR_CALM, f"a header list of {size} bytes is refused")
        is_trailer = stream.is_headed
        check_fields(fields, is_trailer=is_trailer)
        if is_trailer:
            if not ends:
                raise H2StreamError(ErrorCode.PROTOCOL_ERROR, "a second HEADERS without END_STREAM")
            self._remote_end(stream)
            self._events.append(DataReceived(stream, memoryview(b""), True))
            return
        if not self.is_server:
            if fields and fields[0][0] == ":status" and fields[0][1].startswith("1") and not ends:
                self._expect(self._noise_allowed, "interim answers")
                return  # an interim answer; the real one follows
            stream.is_answered = True
        stream.is_headed = True
        if ends:
            stream.remote_open = False
        self._events.append(HeadReceived(stream, fields, ends))
        if ends and not stream.local_open:
            self._remote_end(stream)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._late(stream_id, frames.RST_STREAM)
            return
        if self.is_server and not stream.is_answered:
            self._expect(self._resets_allowed, "requests that are taken back at once")
        self._forget(stream)
        self._events.append(StreamReset(stream, frames.read_long(payload), text=self.last_words))
        self._events.append(StreamsChanged())

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._expect(self._noise_allowed, "PRIORITY frames")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, and nobody may push here")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._expect(self._control_allowed, "SETTINGS frames")
        if flags & frames.ACK:
            if payload:
                raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
            return
        for key, value in frames.parse_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif key == Setting.MAX_FRAME_SIZE:
                self.peer_frame_bytes = value
            elif key == Setting.MAX_CONCURRENT_STREAMS:
                self.peer_streams = value
            elif key == Setting.ENABLE_CONNECT_PROTOCOL and value and self.is_server:
                self.takes_connect_error_for_end = True
            elif key == Setting.ENABLE_PUSH and value and not self.is_server:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "a server that allows itself to be pushed to")
        self.out += frames.SETTINGS_ACK
        self._events.append(StreamsChanged())

    def _resize_windows(self, value: int) -> None:
        """A new initial window moves the windows of all open streams, below zero too (RFC 9113 6.9.2)."""
        change = value - self.peer_window
        self.peer_window = value
        self._weigh_peer_windows()
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > frames.MAX_WINDOW:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS push a window above 2^31-1")
        if change > 0:
            self._window_opened(None)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        self._expect(self._control_allowed, "PING frames")
        if not flags & frames.ACK:
            self.out += frames.ping(payload, ack=True)
        elif payload == _KEEPALIVE and self._ping_sent:
            self._ping_sent = False
            self._ping_due_s = self._now_s + self.limits.ping_after_s
        elif payload == SHUTDOWN_PING and self._closes_door:
            self._closes_door = False
            self.out += frames.goaway(self._last_peer_id, ErrorCode.NO_ERROR)
            self._events.append(StreamsChanged())

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) < 8:
            code = ErrorCode.PROTOCOL_ERROR if stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise H2Error(code, "a GOAWAY on a stream or cut short")
        self._expect(self._control_allowed, "GOAWAY frames")
        last = frames.read_long(payload) & frames.MAX_STREAM_ID
        self.goaway_received = True
        if not self.is_server:
            for stream in [s for s in self.streams.values() if s.id > last]:
                self._forget(stream)
                self._events.append(StreamReset(stream, ErrorCode.REFUSED_STREAM))
        text = self.last_words = payload[8:208].decode("utf-8", "replace")
        self._events.append(GoAwayReceived(last, frames.read_long(payload, 4), text))

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.read_long(payload) & frames.MAX_WINDOW
        if self.updates_earned > 0:
            self.updates_earned = min(self.updates_earned, UPDATES_KEPT) - 1
        else:
            self._expect(self._updates_allowed, "WINDOW_UPDATE frames")
        if stream_id == 0:
            if not increment:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self.send_window += increment
            if self.send_window > frames.MAX_WINDOW:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window grows above 2^31-1")
            if self.send_window > self.peer_connection_window:
                self.peer_connection_window = self.send_window
                self._weigh_peer_windows()
            if self.send_window >= self._crowded_below:
                self._roomy_at_s = self._now_s
            self._window_opened(None)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._late(stream_id, frames.WINDOW_UPDATE)
        elif not increment:
            self._violate(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif stream.send_window + increment > frames.MAX_WINDOW:
            self._violate(stream, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window grows above 2^31-1")
        else:
            stream.send_window += increment
            self._window_opened(stream)

    def _window_opened(self, stream: Stream | None) -> None:
        """Said once of all that came together: credit by the byte would have every stream try as often."""
        stream_id = 0 if stream is None else stream.id
        if stream_id not in self._opened:
            self._opened.add(stream_id)
            self._events.append(WindowOpened(stream))


_HANDLERS = {
    frames.HEADERS: H2Tunnels._on_headers,
    frames.PRIORITY: H2Tunnels._on_priority,
    frames.RST_STREAM: H2Tunnels._on_rst_stream,
    frames.SETTINGS: H2Tunnels._on_settings,
    frames.PUSH_PROMISE: H2Tunnels._on_push_promise,
    frames.PING: H2Tunnels._on_ping,
    frames.GOAWAY: H2Tunnels._on_goaway,
    frames.WINDOW_UPDATE: H2Tunnels._on_window_update,
    frames.CONTINUATION: H2Tunnels._on_continuation,
}
