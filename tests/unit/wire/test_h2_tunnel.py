"""The HTTP/2 connection against RFC 9113: what is sent, what is accepted, what is refused and how."""

from __future__ import annotations

import pytest

from agent.wire import h2_frames as frames
from agent.wire.h2_events import (
    MIB,
    ConnectionFailed,
    DataReceived,
    GoAwayReceived,
    HeadReceived,
    Limits,
    StreamReset,
    WindowOpened,
)
from agent.wire.h2_frames import ErrorCode, Setting
from agent.wire.h2_headers import EMPTY_TABLE, encode_fields
from agent.wire.h2_tunnel import H2Tunnels
from tests.support.playbook import CONNECT, Frame, Talk, data, request, split


def settings_of(frame: Frame) -> dict[int, int]:
    return dict(frames.parse_settings(frame.payload))


def test_client_greets_as_facts_2_3_say() -> None:
    codec = H2Tunnels(is_server=False, now_s=0.0)
    raw = codec.data_to_send()
    assert raw.startswith(frames.PREFACE)
    first, second = split(raw)
    assert settings_of(first) == {4: 4 * MIB, 5: MIB, 6: 16384, 2: 0}
    assert second == Frame(frames.WINDOW_UPDATE, 0, 0, (16 * MIB - 65535).to_bytes(4, "big"))


def test_server_greets_as_facts_2_3_say() -> None:
    first, second = Talk(is_server=True).greeting
    assert settings_of(first) == {4: 4 * MIB, 5: MIB, 6: 65536, 3: 200}
    assert second.stream_id == 0 and second.kind == frames.WINDOW_UPDATE


def test_request_and_answer_cross() -> None:
    client, server = Talk(is_server=False), Talk(is_server=True)
    stream = client.codec.open("10.1.2.3:80", [("baggage", "k=v"), ("forwarded", 'for="[::1]:1"')])
    (head,) = server.play(client.codec.data_to_send())
    assert isinstance(head, HeadReceived) and not head.ended
    assert head.fields == [
        (":method", "CONNECT"),
        (":authority", "10.1.2.3:80"),
        ("baggage", "k=v"),
        ("forwarded", 'for="[::1]:1"'),
    ]
    server.codec.answer(head.stream, 200, [("baggage", "x")], ended=False)
    (answer,) = client.play(server.codec.data_to_send())
    assert answer == HeadReceived(stream, [(":status", "200"), ("baggage", "x")], False)


def test_data_is_a_view_of_what_was_received() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    raw = memoryview(data(1, b"hello") + data(1, b"bye", ended=True))
    first, second = talk.codec.receive(raw, 0.0)
    assert first == DataReceived(stream, memoryview(b"hello"), False) and second.ended
    assert first.data.obj is raw.obj


def test_a_long_frame_is_passed_on_as_it_arrives() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    raw = data(1, b"x" * 500_000, ended=True)
    (first,) = talk.play(raw[:100_000])
    (second,) = talk.play(raw[100_000:])
    assert (len(first.data), first.ended) == (99_991, False)
    assert (len(second.data), second.ended) == (400_009, True)
    assert not stream.remote_open


def test_padding_is_dropped_and_its_credit_returned() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    (event,) = talk.play(frames.frame(frames.DATA, frames.PADDED, 1, b"\x03abc\0\0\0"))
    assert bytes(event.data) == b"abc"
    assert stream.unreturned == 4 and talk.codec.unreturned == 4


def test_padded_headers_with_priority_are_read() -> None:
    talk = Talk(is_server=True)
    payload = b"\x02" + b"\0\0\0\0\x10" + encode_fields(CONNECT) + b"\0\0"
    flags = frames.PADDED | frames.WITH_PRIORITY | frames.END_HEADERS
    (event,) = talk.play(frames.frame(frames.HEADERS, flags, 1, payload))
    assert event.fields == CONNECT


def test_continuations_are_joined() -> None:
    talk = Talk(is_server=True)
    block = encode_fields([*CONNECT, ("x", "y" * 100)])
    (event,) = talk.play(frames.headers(1, block, ended=False, frame_bytes=7))
    assert event.fields[-1] == ("x", "y" * 100)


def test_credit_comes_back_a_quarter_window_at_a_time() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    for _ in range(4):
        talk.play(data(1, b"x" * MIB))
    talk.codec.consumed(stream, MIB - 1)
    assert talk.sent() == []
    talk.codec.consumed(stream, 1)
    assert talk.sent() == [Frame(frames.WINDOW_UPDATE, 0, 1, MIB.to_bytes(4, "big"))]
    talk.codec.consumed(stream, 3 * MIB)
    assert [f.stream_id for f in talk.sent()] == [1, 0]


def test_interim_answers_are_skipped() -> None:
    talk = Talk(is_server=False)
    stream = talk.codec.open("a:1", [])
    assert talk.play(request(1, [(":status", "103")])) == []
    assert talk.play(request(1, [(":status", "200")]))[0].stream is stream


def test_trailers_end_the_stream() -> None:
    talk = Talk(is_server=True)
    talk.accept()
    (event,) = talk.play(request(1, [("grpc-status", "0")], ended=True))
    assert event == DataReceived(event.stream, memoryview(b""), True)


def test_both_ends_closed_forget_the_stream() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    talk.play(data(1, b"", ended=True))
    assert talk.codec.streams
    talk.codec.end(stream)
    assert not talk.codec.streams and talk.sent() == [Frame(frames.DATA, frames.END_STREAM, 1, b"")]


def test_a_refusal_ends_both_directions() -> None:
    talk = Talk(is_server=True)
    talk.play(request(1))
    talk.codec.answer(talk.codec.streams[1], 401, [], ended=True)
    answer, reset = talk.sent()
    assert answer.flags & frames.END_STREAM and reset.code == ErrorCode.NO_ERROR
    assert talk.play(data(1, b"late")) == [] and talk.sent() == []


# -- the peer's live settings


def test_initial_window_changes_move_open_streams() -> None:
    talk = Talk(is_server=False, settings=frames.settings({Setting.INITIAL_WINDOW_SIZE: 1000}))
    stream = talk.open()
    talk.write(stream, 600)
    assert talk.codec.sendable(stream) == 400
    talk.play(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100}))
    assert talk.codec.sendable(stream) == -500
    assert WindowOpened(None) in talk.play(frames.settings({Setting.INITIAL_WINDOW_SIZE: 5000}))
    assert talk.codec.sendable(stream) == 4400


def test_frame_size_follows_the_peer() -> None:
    talk = Talk(is_server=False)
    stream = talk.open()
    assert talk.codec.sendable(stream) == 16384
    talk.play(frames.settings({Setting.MAX_FRAME_SIZE: 65536, Setting.INITIAL_WINDOW_SIZE: MIB}))
    assert talk.codec.sendable(stream) == 65535  # the connection's window is the smaller now
    talk.play(frames.window_update(0, MIB))
    assert talk.codec.sendable(stream) == 65536


def test_stream_limit_and_settings_are_acknowledged() -> None:
    talk = Talk(is_server=False)
    assert talk.codec.peer_streams is None
    talk.play(frames.settings({Setting.MAX_CONCURRENT_STREAMS: 10}))
    assert talk.codec.peer_streams == 10 and talk.sent() == [Frame(frames.SETTINGS, frames.ACK, 0, b"")]


def test_a_header_table_of_zero_needs_nothing_of_us() -> None:
    talk = Talk(is_server=False, settings=frames.settings({Setting.HEADER_TABLE_SIZE: 0}))
    talk.codec.open("a:1", [])
    talk.codec.open("a:1", [])
    first, second = talk.sent()
    assert first.payload == EMPTY_TABLE + second.payload  # the first block says that no table is used


def test_windows_are_debited_and_opened() -> None:
    talk = Talk(is_server=False)
    stream = talk.open()
    talk.write(stream, 16384)
    talk.write(stream, 49151)
    assert talk.codec.sendable(stream) == 0
    assert talk.play(frames.window_update(1, 10)) == [WindowOpened(stream)]
    assert talk.codec.sendable(stream) == 0
    assert talk.play(frames.window_update(0, 5)) == [WindowOpened(None)]
    assert talk.codec.sendable(stream) == 5


# -- violations: the table of RFC 9113

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
    assert talk.play(data(3, b"x" * 40_000))[-1].code == ErrorCode.FLOW_CONTROL_ERROR
    assert talk.codec.failed


def test_client_refuses_data_before_the_answer() -> None:
    talk = Talk(is_server=False)
    talk.codec.open("a:1", [])
    reset = talk.play(data(1, b"x"))[0]
    assert (reset.code, reset.by_peer) == (ErrorCode.PROTOCOL_ERROR, False)
    assert talk.sent()[-1].code == ErrorCode.PROTOCOL_ERROR


def test_streams_above_the_limit_are_refused() -> None:
    talk = Talk(is_server=True, limits=Limits(peer_streams=2))
    heads = talk.play(request(1), request(3), request(5))
    assert [type(e) for e in heads] == [HeadReceived, HeadReceived]
    assert [(f.stream_id, f.code) for f in talk.sent()] == [(5, ErrorCode.REFUSED_STREAM)]
    talk.codec.reset(talk.codec.streams[1], ErrorCode.CANCEL)
    assert isinstance(talk.play(request(7))[0], HeadReceived)


def test_late_frames_on_a_stream_reset_here_are_ignored_but_decoded() -> None:
    talk = Talk(is_server=True)
    talk.codec.reset(talk.accept(), ErrorCode.CANCEL)
    talk.sent()
    insert = frames.frame(frames.HEADERS, 5, 1, b"\x40\x01k\x01v")  # trailers that insert into the table
    assert talk.play(data(1, b"late"), insert, frames.window_update(1, 9), frames.rst_stream(1, 8)) == []
    assert talk.sent() == [] and talk.codec.unreturned == 4
    (head,) = talk.play(frames.frame(frames.HEADERS, 4, 3, encode_fields(CONNECT) + b"\xbe"))
    assert head.fields[-1] == ("k", "v")


def test_data_on_a_stream_closed_by_the_peer_is_a_stream_error() -> None:
    talk = Talk(is_server=True)
    talk.accept()
    talk.play(frames.rst_stream(1, 8))
    assert talk.play(data(1, b"x")) == []
    assert [(f.kind, f.code) for f in talk.sent()] == [(frames.RST_STREAM, ErrorCode.STREAM_CLOSED)]


# -- ping and the end


def test_pings_are_answered() -> None:
    talk = Talk(is_server=True)
    talk.play(PING)
    assert talk.sent() == [Frame(frames.PING, frames.ACK, 0, b"12345678")]


def test_own_pings_come_ten_seconds_after_each_answer_and_are_missed_after_twenty() -> None:
    talk = Talk(is_server=False)
    assert talk.codec.tick(9.9) == 10.0 and talk.sent() == []
    assert talk.codec.tick(10.0) == 30.0
    (ping,) = talk.sent()
    assert talk.codec.tick(29.9) == 30.0 and talk.sent() == []
    talk.now_s = 12.0
    talk.play(frames.ping(ping.payload, ack=True))
    assert talk.codec.tick(12.0) == 22.0
    assert talk.codec.tick(22.0) == 42.0
    assert talk.codec.tick(42.0) is None


def test_a_ping_answer_nobody_asked_for_is_ignored() -> None:
    talk = Talk(is_server=False)
    talk.play(frames.ping(b"whatever", ack=True))
    assert talk.codec.tick(0.0) == 10.0


def test_server_drains_in_two_steps() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept(1)
    talk.codec.go_away()
    first, ping = talk.sent()
    assert int.from_bytes(first.payload[:4], "big") == frames.MAX_STREAM_ID and first.code == 0
    assert isinstance(talk.play(request(3))[0], HeadReceived)  # it was on its way: served
    talk.play(frames.ping(ping.payload, ack=True))
    (last,) = talk.sent()
    assert int.from_bytes(last.payload[:4], "big") == 3
    assert talk.play(request(5)) == []
    assert not talk.codec.is_finished
    talk.codec.reset(stream, ErrorCode.CANCEL)
    talk.codec.reset(talk.codec.streams[3], ErrorCode.CANCEL)
    assert talk.codec.is_finished


def test_client_hears_goaway() -> None:
    talk = Talk(is_server=False)
    kept, lost = talk.open(), talk.open()
    events = talk.play(frames.goaway(1, ErrorCode.NO_ERROR, "drain"))
    assert events == [StreamReset(lost, ErrorCode.REFUSED_STREAM), GoAwayReceived(1, 0, "drain")]
    assert not talk.codec.can_open and list(talk.codec.streams.values()) == [kept]
    talk.codec.reset(kept, ErrorCode.CANCEL)
    assert talk.codec.is_finished


def test_a_draining_server_that_says_how_far_later_loses_no_stream() -> None:
    talk = Talk(is_server=False)
    stream = talk.open()
    talk.play(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
    talk.play(frames.goaway(1, ErrorCode.NO_ERROR))
    assert list(talk.codec.streams.values()) == [stream]


def test_stream_ids_run_out() -> None:
    talk = Talk(is_server=False)
    talk.codec._next_id = frames.MAX_STREAM_ID
    assert talk.codec.can_open
    talk.codec.open("a:1", [])
    assert not talk.codec.can_open
