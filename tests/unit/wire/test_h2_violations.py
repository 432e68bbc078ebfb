"""Peers against RFC 9113: which violation ends the connection, which only a stream, and with what code."""

from __future__ import annotations

import pytest

from agent.wire import h2_frames as frames
from agent.wire.h2_events import ConnectionFailed, HeadReceived, Limits, StreamReset
from agent.wire.h2_frames import ErrorCode, Setting
from agent.wire.h2_tunnel import H2Tunnels
from tests.support.playbook import CONNECT, Talk, data, request

PING = frames.ping(b"12345678")
VIOLATIONS = [
    ("DATA on stream 0", ErrorCode.PROTOCOL_ERROR, data(0, b"x")),
    ("DATA on an idle stream", ErrorCode.PROTOCOL_ERROR, data(5, b"x")),
    ("frame too long", ErrorCode.FRAME_SIZE_ERROR, frames.FRAME_HEADER.pack(0x1000, 1, 0, 0, 1)),
    ("control frame too long", ErrorCode.ENHANCE_YOUR_CALM, frames.FRAME_HEADER.pack(0x300, 0, 1, 4, 3)),
    ("padding longer than DATA", ErrorCode.PROTOCOL_ERROR, frames.frame(0, 8, 1, b"\x05abc")),
    ("padding longer than HEADERS", ErrorCode.PROTOCOL_ERROR, frames.frame(1, 12, 3, b"\x05abc")),
    ("padded HEADERS without length", ErrorCode.FRAME_SIZE_ERROR, frames.frame(1, 12, 3, b"")),
    ("HEADERS on stream 0", ErrorCode.PROTOCOL_ERROR, request(0)),
    ("HEADERS on an even stream", ErrorCode.PROTOCOL_ERROR, request(2)),
    ("CONTINUATION alone", ErrorCode.PROTOCOL_ERROR, frames.frame(9, 4, 1, b"")),
    ("PING inside a header block", ErrorCode.PROTOCOL_ERROR, frames.frame(1, 0, 3, b"") + PING),
    (
        "CONTINUATION of another stream",
        ErrorCode.PROTOCOL_ERROR,
        frames.frame(1, 0, 3, b"") + frames.frame(9, 4, 5),
    ),
    ("HPACK index that is not there", ErrorCode.COMPRESSION_ERROR, frames.frame(1, 4, 3, b"\xff\x7f")),
    ("HPACK cut short", ErrorCode.COMPRESSION_ERROR, frames.frame(1, 4, 3, b"\x40\x0axx")),
    ("PRIORITY on stream 0", ErrorCode.PROTOCOL_ERROR, frames.frame(2, 0, 0, bytes(5))),
    ("PRIORITY of 4 bytes", ErrorCode.FRAME_SIZE_ERROR, frames.frame(2, 0, 1, bytes(4))),
    ("RST_STREAM on an idle stream", ErrorCode.PROTOCOL_ERROR, frames.rst_stream(7, 0)),
    ("RST_STREAM on stream 0", ErrorCode.PROTOCOL_ERROR, frames.rst_stream(0, 0)),
    ("RST_STREAM of 3 bytes", ErrorCode.FRAME_SIZE_ERROR, frames.frame(3, 0, 1, bytes(3))),
    ("SETTINGS on a stream", ErrorCode.PROTOCOL_ERROR, frames.frame(4, 0, 1)),
    ("SETTINGS of 5 bytes", ErrorCode.FRAME_SIZE_ERROR, frames.frame(4, 0, 0, bytes(5))),
    ("SETTINGS ack with content", ErrorCode.FRAME_SIZE_ERROR, frames.frame(4, 1, 0, bytes(6))),
    ("window of 2^31", ErrorCode.FLOW_CONTROL_ERROR, frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31})),
    ("frame size of 16383", ErrorCode.PROTOCOL_ERROR, frames.settings({Setting.MAX_FRAME_SIZE: 16383})),
    ("frame size of 2^24", ErrorCode.PROTOCOL_ERROR, frames.settings({Setting.MAX_FRAME_SIZE: 1 << 24})),
    ("push of 2", ErrorCode.PROTOCOL_ERROR, frames.settings({Setting.ENABLE_PUSH: 2})),
    ("PUSH_PROMISE", ErrorCode.PROTOCOL_ERROR, frames.frame(5, 4, 1, bytes(4))),
    ("PING on a stream", ErrorCode.PROTOCOL_ERROR, frames.frame(6, 0, 1, bytes(8))),
    ("PING of 7 bytes", ErrorCode.FRAME_SIZE_ERROR, frames.frame(6, 0, 0, bytes(7))),
    ("GOAWAY on a stream", ErrorCode.PROTOCOL_ERROR, frames.frame(7, 0, 1, bytes(8))),
    ("GOAWAY of 7 bytes", ErrorCode.FRAME_SIZE_ERROR, frames.frame(7, 0, 0, bytes(7))),
    ("WINDOW_UPDATE of 0 on the connection", ErrorCode.PROTOCOL_ERROR, frames.window_update(0, 0)),
    ("WINDOW_UPDATE overflow", ErrorCode.FLOW_CONTROL_ERROR, frames.window_update(0, frames.MAX_WINDOW)),
    ("WINDOW_UPDATE on an idle stream", ErrorCode.PROTOCOL_ERROR, frames.window_update(9, 1)),
    ("flood of PING", ErrorCode.ENHANCE_YOUR_CALM, PING * 1000),
    ("flood of SETTINGS", ErrorCode.ENHANCE_YOUR_CALM, frames.settings({}) * 1000),
    ("flood of PING answers", ErrorCode.ENHANCE_YOUR_CALM, frames.ping(b"12345678", ack=True) * 1000),
    ("flood of WINDOW_UPDATE", ErrorCode.ENHANCE_YOUR_CALM, frames.window_update(0, 1) * 5000),
    ("flood of WINDOW_UPDATE on a stream", ErrorCode.ENHANCE_YOUR_CALM, frames.window_update(1, 1) * 5000),
    (
        "flood of WINDOW_UPDATE on a closed stream",
        ErrorCode.ENHANCE_YOUR_CALM,
        frames.rst_stream(1, 8) + frames.window_update(1, 1) * 5000,
    ),
    ("flood of RST_STREAM on a closed stream", ErrorCode.ENHANCE_YOUR_CALM, frames.rst_stream(1, 8) * 5000),
    ("flood of GOAWAY", ErrorCode.ENHANCE_YOUR_CALM, frames.goaway(0, ErrorCode.NO_ERROR) * 1000),
    ("flood of empty DATA", ErrorCode.ENHANCE_YOUR_CALM, data(1, b"") * 5000),
    ("flood of PRIORITY", ErrorCode.ENHANCE_YOUR_CALM, frames.frame(2, 0, 1, bytes(5)) * 5000),
    ("flood of unknown frames", ErrorCode.ENHANCE_YOUR_CALM, frames.frame(77, 0, 1) * 5000),
    (
        "flood of empty CONTINUATION",
        ErrorCode.ENHANCE_YOUR_CALM,
        frames.frame(1, 0, 3) + frames.frame(9, 0, 3) * 5000,
    ),
    (
        "header block without end",
        ErrorCode.ENHANCE_YOUR_CALM,
        frames.frame(1, 0, 3) + frames.frame(9, 0, 3, b"x" * 16384) * 10,
    ),
    (
        "HPACK bomb",
        ErrorCode.ENHANCE_YOUR_CALM,
        frames.frame(1, 4, 3, b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 100),
    ),
    (
        "rapid reset",
        ErrorCode.ENHANCE_YOUR_CALM,
        b"".join(request(i) + frames.rst_stream(i, 8) for i in range(3, 1003, 2)),
    ),
]


@pytest.mark.parametrize(("code", "raw"), [row[1:] for row in VIOLATIONS], ids=[row[0] for row in VIOLATIONS])
def test_violations_end_the_connection(code: ErrorCode, raw: bytes) -> None:
    talk = Talk(is_server=True)
    talk.accept()
    failed = talk.play(raw)[-1]
    assert isinstance(failed, ConnectionFailed) and failed.code == code, failed
    goaway = talk.sent()[-1]
    assert (goaway.kind, goaway.code) == (frames.GOAWAY, code)
    assert talk.play(PING) == [] and talk.sent() == []


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", frames.PREFACE + PING, frames.PREFACE + frames.SETTINGS_ACK]
)
def test_a_wrong_beginning_ends_the_connection(raw: bytes) -> None:
    codec = H2Tunnels(is_server=True, now_s=0.0)
    (failed,) = codec.receive(memoryview(raw), 0.0)
    assert failed.code == ErrorCode.PROTOCOL_ERROR
    if raw.startswith(b"GET"):
        assert "does not speak HTTP/2" in failed.text and "GET /" in failed.text


STREAM_ERRORS = [
    ("stream window overflow", ErrorCode.FLOW_CONTROL_ERROR, frames.window_update(1, frames.MAX_WINDOW)),
    ("stream WINDOW_UPDATE of 0", ErrorCode.PROTOCOL_ERROR, frames.window_update(1, 0)),
    ("DATA after END_STREAM", ErrorCode.STREAM_CLOSED, data(1, b"", ended=True) + data(1, b"x")),
    ("HEADERS after END_STREAM", ErrorCode.STREAM_CLOSED, data(1, b"", ended=True) + request(1)),
    ("trailers without END_STREAM", ErrorCode.PROTOCOL_ERROR, request(1, [("a", "b")])),
    ("pseudo field in trailers", ErrorCode.PROTOCOL_ERROR, request(1, CONNECT, ended=True)),
    ("upper case in a name", ErrorCode.PROTOCOL_ERROR, request(3, [*CONNECT, ("Bag", "x")])),
    ("connection field", ErrorCode.PROTOCOL_ERROR, request(3, [*CONNECT, ("connection", "close")])),
    ("line break in a value", ErrorCode.PROTOCOL_ERROR, request(3, [*CONNECT, ("a", "b\r\nc: d")])),
    ("pseudo field twice", ErrorCode.PROTOCOL_ERROR, request(3, [*CONNECT, CONNECT[0]])),
    ("pseudo field late", ErrorCode.PROTOCOL_ERROR, request(3, [("a", "b"), *CONNECT])),
    ("unknown pseudo field", ErrorCode.PROTOCOL_ERROR, request(3, [*CONNECT, (":x", "y")])),
    ("header list too long", ErrorCode.ENHANCE_YOUR_CALM, request(3, [*CONNECT, ("a", "b" * 66000)])),
]


@pytest.mark.parametrize(
    ("code", "raw"), [row[1:] for row in STREAM_ERRORS], ids=[row[0] for row in STREAM_ERRORS]
)
def test_stream_errors_leave_the_connection_usable(code: ErrorCode, raw: bytes) -> None:
    talk = Talk(is_server=True)
    talk.accept()
    resets = [e for e in talk.play(raw) if isinstance(e, StreamReset)]
    assert [(r.code, r.by_peer) for r in resets] == [(code, False)]
    assert [(f.kind, f.code) for f in talk.sent()] == [(frames.RST_STREAM, code)]
    assert isinstance(talk.play(request(9))[0], HeadReceived)


def test_data_beyond_the_stream_window_resets_it_and_beyond_the_connection_window_ends_it() -> None:
    small = Limits(stream_window_bytes=70_000, connection_window_bytes=100_000, peer_streams=10)
    talk = Talk(is_server=True, limits=small)
    talk.accept(1)
    talk.accept(3)
    talk.play(data(1, b"x" * 60_000))
    assert talk.play(data(1, b"x" * 10_001))[0].code == ErrorCode.FLOW_CONTROL_ERROR
    assert talk.play(data(3, b"x" * 90_000))[-1].code == ErrorCode.FLOW_CONTROL_ERROR
    assert talk.codec.failed


def test_a_peer_may_credit_each_read_by_itself() -> None:
    """One byte a frame, credited for the stream and for the connection: what simple implementations do."""
    talk = Talk(is_server=True)
    stream = talk.accept()
    header = memoryview(bytearray(9))
    for _ in range(100):
        for _ in range(100):
            talk.codec.data_header_into(header, 0, stream, 1)
        assert ConnectionFailed not in map(
            type, talk.play((frames.window_update(0, 1) + frames.window_update(1, 1)) * 100)
        )
    assert stream.send_window == talk.codec.peer_window


def test_resets_may_cross_on_every_stream() -> None:
    talk = Talk(is_server=True)
    for number in range(1, 10001, 2):
        stream = talk.accept(number)
        talk.codec.reset(stream, ErrorCode.CANCEL)
        assert talk.play(frames.rst_stream(number, 8)) == []
