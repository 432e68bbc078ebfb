"""Talk to a sans-IO HTTP/2 connection in frames: what a peer sends, and what came back, readable in a test."""

from __future__ import annotations

from typing import NamedTuple

from agent.wire import h2_frames as frames
from agent.wire.h2_events import Event, Limits, Stream
from agent.wire.h2_headers import encode_fields
from agent.wire.h2_tunnel import H2Tunnels

CONNECT = [(":method", "CONNECT"), (":authority", "10.0.0.1:80")]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == frames.GOAWAY else self.payload, "big")

    @property
    def settings(self) -> dict[int, int]:
        """What a SETTINGS frame says."""
        return dict(frames.parse_settings(self.payload))


def split(data: bytes) -> list[Frame]:
    """The frames of a byte stream; a preface in front is dropped; it must end with a whole frame."""
    data = data.removeprefix(frames.PREFACE)
    found = []
    while data:
        high, low, kind, flags, stream_id = frames.FRAME_HEADER.unpack_from(data)
        end = frames.HEADER_BYTES + (high << 8 | low)
        assert len(data) >= end, "a frame is cut"
        found.append(Frame(kind, flags, stream_id, data[frames.HEADER_BYTES : end]))
        data = data[end:]
    return found


def request(stream_id: int, fields: list[tuple[str, str]] = CONNECT, *, ended: bool = False) -> bytes:
    return frames.headers(stream_id, encode_fields(fields), ended=ended, frame_bytes=16384)


def data(stream_id: int, payload: bytes, *, ended: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ended else 0, stream_id, payload)


class Talk:
    """One connection past its greeting; `play` feeds bytes and returns the events, `sent` the answers."""

    def __init__(
        self, *, is_server: bool, limits: Limits | None = None, settings: bytes | None = None
    ) -> None:
        self.codec = H2Tunnels(is_server=is_server, now_s=0.0, limits=limits)
        self.now_s = 0.0
        self.greeting = split(self.codec.data_to_send())
        hello = settings if settings is not None else frames.settings({})
        self.play((frames.PREFACE if is_server else b"") + hello)
        self.sent()

    def play(self, *pieces: bytes) -> list[Event]:
        return self.codec.receive(memoryview(b"".join(pieces)), self.now_s)

    def sent(self) -> list[Frame]:
        return split(self.codec.data_to_send())

    def open(self) -> Stream:
        """Client: a tunnel that the peer accepted."""
        stream = self.codec.open("10.0.0.1:80", [])
        self.play(request(stream.id, [(":status", "200")]))
        self.sent()
        return stream

    def accept(self, stream_id: int = 1) -> Stream:
        """Server: a tunnel that was asked for and accepted."""
        self.play(request(stream_id))
        stream = self.codec.streams[stream_id]
        self.codec.answer(stream, 200, [], ended=False)
        self.sent()
        return stream

    def write(self, stream: Stream, size: int) -> None:
        """Send DATA as a link does: only its header passes through the codec."""
        self.codec.data_header_into(memoryview(bytearray(9)), 0, stream, size)
