"""The receiving half of an HTTP/2 connection: bytes into frames, DATA with its windows, and what is refused.

DATA is passed on in pieces as it arrives, as views of what was received; other frames are collected whole,
bounded, and handed to `_on_frame`, which `h2_tunnel` provides. RFC 9113 sections 4 to 6.
"""

from __future__ import annotations

from abc import abstractmethod

from agent.model.unit import State, StateReader
from agent.wire import h2_frames as frames
from agent.wire.h2_events import (
    Bucket,
    ConnectionFailed,
    DataReceived,
    Event,
    Limits,
    Stream,
    StreamReset,
    StreamsChanged,
)
from agent.wire.h2_frames import FRAME_HEADER, ErrorCode, H2Error
from agent.wire.h2_send import H2Sender

MAX_CONTROL_BYTES = 1 << 17
"""The longest frame other than DATA, and the longest header block, that is read to its end."""


class H2Receiver(H2Sender):
    """Not used alone: see `h2_tunnel.H2Tunnels`."""

    def __init__(self, *, is_server: bool, limits: Limits, now_s: float) -> None:
        super().__init__(is_server=is_server, limits=limits, now_s=now_s)
        self._events: list[Event] = []
        self._opened: set[int] = set()
        """Streams, and 0 for all, of whose window the events say already that it opened."""
        self._preface = frames.PREFACE if is_server else b""
        self._greeted = False
        self._partial = bytearray()
        self._data_stream: Stream | None = None
        self._data_ends = False
        self._noise_allowed = Bucket(2000, 200)
        self._updates_allowed = Bucket(4000, 400)
        self._late_resets = 0

    @abstractmethod
    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A whole frame other than DATA."""

    @abstractmethod
    def _is_inside_block(self, kind: int, stream_id: int) -> bool:
        """A header block is unfinished, and this frame is not its continuation."""

    @property
    def is_greeted(self) -> bool:
        """The peer's first SETTINGS have begun to arrive."""
        return self._greeted

    # -- receiving

    def receive(self, data: memoryview, now_s: float) -> list[Event]:
        """Take bytes from the peer. The views in DataReceived are slices of `data`."""
        if self.failed:
            return []
        self._now_s = now_s
        events: list[Event] = []
        self._events = events
        if self._opened:
            self._opened.clear()
        try:
            self._parse(data)
        except H2Error as error:
            self.failed = True
            self.shut(error.code, str(error))
            events.append(ConnectionFailed(error.code, str(error)))
        return events

    def _parse(self, data: memoryview) -> None:
        at, end = 0, len(data)
        if self._preface:
            at = self._take_preface(data)
        if self._partial:
            at = self._complete(data, at)
        while at < end:
            left = self._data_left
            if left:
                take = left if left <= end - at else end - at
                self._on_data(data[at : at + take], left - take)
                at += take
                continue
            if end - at < frames.HEADER_BYTES:
                self._partial += data[at:]
                return
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, at)
            size = high << 8 | low
            streamed = self._begin(size, kind, flags, stream_id)
            if not streamed and end - at < frames.HEADER_BYTES + size:
                self._partial += data[at:]
                return
            at += frames.HEADER_BYTES
            if not streamed:
                self._on_frame(kind, flags, stream_id & frames.MAX_STREAM_ID, bytes(data[at : at + size]))
                at += size

    def _take_preface(self, data: memoryview) -> int:
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise H2Error(
                ErrorCode.PROTOCOL_ERROR,
                f"the peer does not speak HTTP/2; its first bytes are {bytes(data[:16])!r}",
            )
        self._preface = self._preface[size:]
        return size

    def _complete(self, data: memoryview, at: int) -> int:
        """Finish the frame that the last call left unfinished; where the next one starts in `data`."""
        partial, end = self._partial, len(data)
        if len(partial) < frames.HEADER_BYTES:
            take = min(frames.HEADER_BYTES - len(partial), end - at)
            partial += data[at : at + take]
            at += take
            if len(partial) < frames.HEADER_BYTES:
                return at
            high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(partial)
            if self._begin(high << 8 | low, kind, flags, stream_id):
                self._partial = bytearray()
                return at
        high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(partial)
        take = min(frames.HEADER_BYTES + (high << 8 | low) - len(partial), end - at)
        partial += data[at : at + take]
        at += take
        if len(partial) == frames.HEADER_BYTES + (high << 8 | low):
            self._partial = bytearray()
            payload = bytes(partial[frames.HEADER_BYTES :])
            self._on_frame(kind, flags, stream_id & frames.MAX_STREAM_ID, payload)
        return at

    def _begin(self, size: int, kind: int, flags: int, stream_id: int) -> bool:
        """Judge a frame by its header. True: it is DATA and its payload is passed on as it arrives."""
        if size > self.limits.frame_bytes:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes; the limit was announced")
        if self._is_inside_block(kind, stream_id & frames.MAX_STREAM_ID):
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted by another frame")
        if not self._greeted:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._greeted = True
        if kind != frames.DATA:
            if size > MAX_CONTROL_BYTES:
                raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, f"a control frame of {size} bytes")
            return False
        if flags & frames.PADDED:
            return False
        self._begin_data(size, flags, stream_id & frames.MAX_STREAM_ID)
        if size == 0:
            self._on_empty_data()
        return True

    # -- DATA

    def _begin_data(self, size: int, flags: int, stream_id: int) -> None:
        """Debit the windows for a whole frame and remember whose payload follows."""
        self.receive_window -= size
        if self.receive_window < self._credit_below:
            if self.receive_window < 0:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window of the connection")
            self._credit_connection()
        stream = self.streams.get(stream_id)
        if stream is None:
            self._late(stream_id, frames.DATA, size)
        elif not stream.remote_open:
            self._violate(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
            stream = None
        elif not self.is_server and not stream.is_answered:
            self._violate(stream, ErrorCode.PROTOCOL_ERROR, "DATA before the answer to CONNECT")
            stream = None
        else:
            stream.receive_window -= size
            if stream.receive_window < 0:
                self._violate(stream, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window of the stream")
                stream = None
        self._data_left = size
        self._data_stream = stream
        self._data_ends = bool(flags & frames.END_STREAM)

    def _on_data(self, piece: memoryview, left: int) -> None:
        self._data_left = left
        stream = self._data_stream
        if stream is None or not stream.remote_open:
            self._consumed += len(piece)
            return
        ends = not left and self._data_ends
        if ends:
            self._remote_end(stream)
        self._events.append(DataReceived(stream, piece, ends))

    def _on_empty_data(self) -> None:
        stream = self._data_stream
        if self._data_ends and stream is not None:
            self._remote_end(stream)
            self._events.append(DataReceived(stream, memoryview(b""), True))
        else:
            self._expect(self._noise_allowed, "empty DATA frames")

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._on_padded_data(flags, stream_id, payload)
        else:
            self._on_control(kind, flags, stream_id, payload)

    def _on_padded_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        padding = payload[0] + 1 if payload else 0
        if not payload or padding > len(payload):
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "a DATA frame has more padding than payload")
        self._begin_data(len(payload), flags, stream_id)
        stream = self._data_stream
        self._data_left = 0
        if stream is None:
            self._consumed += padding
        elif self.consumed(stream, padding):
            self.give_credit(stream, self._now_s)
        content = memoryview(payload)[1 : len(payload) - padding + 1]
        if len(content):
            self._on_data(content, 0)
        else:
            self._on_empty_data()

    def _remote_end(self, stream: Stream) -> None:
        stream.remote_open = False
        if not stream.local_open:
            self._forget(stream)
            self._events.append(StreamsChanged())

    # -- judgement

    def _late(self, stream_id: int, kind: int, size: int = 0) -> None:
        """A frame for a stream that is not open: idle is an error, closed depends on who closed it."""
        mine = stream_id % 2 == (0 if self.is_server else 1)
        last = self._next_id - 2 if mine and not self.is_server else 0 if mine else self._last_peer_id
        if stream_id == 0 or stream_id > last:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} on the idle stream {stream_id}")
        if kind == frames.WINDOW_UPDATE:
            return  # counted by itself
        if kind == frames.RST_STREAM:
            # One may cross ours on each stream that was.
            self._late_resets += 1
            if self._late_resets > self._next_id + self._last_peer_id:
                self._expect(self._noise_allowed, "resets of closed streams")
            return
        on_its_way = self._resets.get(stream_id, 0)
        if kind == frames.DATA and 0 < size <= on_its_way:
            self._resets[stream_id] = on_its_way - size
            return
        self._expect(self._noise_allowed, "frames on closed streams")
        if stream_id in self._resets:
            return
        if kind == frames.HEADERS:
            raise H2Error(ErrorCode.STREAM_CLOSED, f"HEADERS on the closed stream {stream_id}")
        self.out += frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED)
        self._resets[stream_id] = 0

    def _violate(self, stream: Stream, code: ErrorCode, text: str) -> None:
        self.reset(stream, code)
        self._events.append(StreamReset(stream, code, by_peer=False, text=text))
        self._events.append(StreamsChanged())

    def _expect(self, bucket: Bucket, what: str) -> None:
        if not bucket.take(self._now_s):
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, f"a flood of {what}")

    # -- going on elsewhere

    def state(self, now_s: float) -> State:
        told = super().state(now_s)
        stream = self._data_stream if self._data_left else None
        is_open = stream is not None and self.streams.get(stream.id) is stream
        told.update(
            {
                "preface": bytes(self._preface),
                "greeted": self._greeted,
                "partial": bytes(self._partial),
                "data_stream": stream.id if stream is not None and is_open else None,
                "data_ends": self._data_ends and is_open,
                "noise_allowed": self._noise_allowed.state(now_s),
                "updates_allowed": self._updates_allowed.state(now_s),
                "late_resets": self._late_resets,
            }
        )
        return told

    def restore(self, fields: StateReader) -> None:
        super().restore(fields)
        self._preface = fields.blob("preface", len(frames.PREFACE))
        self._greeted = fields.flag("greeted")
        self._partial += fields.blob(
            "partial", frames.HEADER_BYTES + max(MAX_CONTROL_BYTES, self.limits.frame_bytes)
        )
        if fields.has("data_stream"):
            self._data_stream = self.streams.get(fields.integer("data_stream"))
            if self._data_stream is None or not self._data_left:
                raise fields.refuse("data_stream", "no DATA of it is arriving")
        self._data_ends = fields.flag("data_ends")
        self._noise_allowed.restore(fields.within("noise_allowed"), self._now_s)
        self._updates_allowed.restore(fields.within("updates_allowed"), self._now_s)
        self._late_resets = fields.integer("late_resets")
        if not frames.PREFACE.endswith(self._preface):
            raise fields.refuse("preface", "no rest of it")
