"""The accepting end of an HTTP/2 connection: streams and their data, credit, refusals, and an end in order."""

from __future__ import annotations

import pytest

from agent.wire import h2_frames as frames
from agent.wire.h2_events import MIB, DataReceived, HeadReceived, Limits, StreamReset
from agent.wire.h2_frames import ErrorCode
from agent.wire.h2_headers import encode_fields
from tests.support.playbook import CONNECT, Frame, Talk, data, request, split


def test_it_announces_what_it_allows() -> None:
    first, second = Talk(is_server=True).greeting
    assert first.settings == {4: MIB // 4, 5: MIB, 6: 65536, 3: 200}
    assert second.stream_id == 0 and second.kind == frames.WINDOW_UPDATE


def test_data_is_a_view_of_what_was_received() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    raw = memoryview(data(1, b"hello") + data(1, b"bye", ended=True))
    first, second = talk.codec.receive(raw, 0.0)
    assert isinstance(first, DataReceived) and (first.stream, first.data, first.ended) == (
        stream,
        b"hello",
        False,
    )
    assert second.ended
    assert first.data.obj is raw.obj


def test_a_long_frame_is_passed_on_as_it_arrives() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    raw = data(1, b"x" * 200_000, ended=True)
    (first,) = talk.play(raw[:100_000])
    (second,) = talk.play(raw[100_000:])
    assert (len(first.data), first.ended) == (99_991, False)
    assert (len(second.data), second.ended) == (100_009, True)
    assert not stream.remote_open


def test_padding_is_dropped_and_its_credit_returned() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    (event,) = talk.play(frames.frame(frames.DATA, frames.PADDED, 1, b"\x03abc\0\0\0"))
    assert bytes(event.data) == b"abc"
    assert stream.unreturned == 4 and talk.codec.unread_bytes == 3


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


def test_trailers_end_the_stream() -> None:
    talk = Talk(is_server=True)
    talk.accept()
    (event,) = talk.play(request(1, [("grpc-status", "0")], ended=True))
    assert isinstance(event, DataReceived) and event.data == b"" and event.ended


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
    assert talk.sent() == [] and talk.codec.unread_bytes == 0
    (head,) = talk.play(frames.frame(frames.HEADERS, 4, 3, encode_fields(CONNECT) + b"\xbe"))
    assert head.fields[-1] == ("k", "v")


def test_what_was_on_its_way_to_streams_reset_here_is_no_flood() -> None:
    """A policy cuts many uploads at once, and each had a window of small frames under way; not more than that."""
    talk = Talk(is_server=True)
    streams = [talk.accept(1 + 2 * number) for number in range(16)]
    for stream in streams:
        talk.codec.reset(stream, ErrorCode.INADEQUATE_SECURITY)
    talk.sent()
    window = streams[0].receive_window
    for stream in streams:
        assert talk.play(data(stream.id, b"x" * 1024) * (window // 1024)) == []
    assert [f.kind for f in talk.sent() if f.kind != frames.WINDOW_UPDATE] == []
    failed = talk.play(data(1, b"x" * 1024) * 2500)
    assert [event.text for event in failed] == ["a flood of frames on closed streams"]


@pytest.mark.parametrize("says", [None, 0, 1])
def test_an_envoy_that_dials_is_not_sent_what_it_takes_for_an_end(says: int | None) -> None:
    hello = frames.settings({} if says is None else {frames.Setting.ENABLE_CONNECT_PROTOCOL: says})
    talk = Talk(is_server=True, settings=hello)
    streams = talk.accept(1), talk.accept(3)
    for stream, code in zip(streams, (ErrorCode.CONNECT_ERROR, ErrorCode.INADEQUATE_SECURITY), strict=True):
        talk.codec.reset(stream, code)
    first = ErrorCode.INTERNAL_ERROR if says else ErrorCode.CONNECT_ERROR
    assert [f.code for f in talk.sent()] == [first, ErrorCode.INADEQUATE_SECURITY]


def test_a_reason_closes_the_door_at_once_and_the_peer_has_it_with_each_reset() -> None:
    server, client = Talk(is_server=True), Talk(is_server=False)
    served, asked = server.accept(), client.open()
    server.codec.go_away()
    server.sent()
    server.codec.go_away("the drain deadline passed")
    server.codec.reset(served, ErrorCode.INTERNAL_ERROR)
    told = server.codec.data_to_send()
    goaway, reset = split(told)
    assert (goaway.kind, goaway.code, goaway.payload[:4]) == (frames.GOAWAY, 0, bytes([0, 0, 0, 1]))
    assert server.play(request(3)) == [] and server.codec.is_finished
    heard = [event for event in client.play(told) if isinstance(event, StreamReset)]
    assert heard == [StreamReset(asked, reset.code, text="the drain deadline passed")]


def test_data_on_a_stream_closed_by_the_peer_is_a_stream_error() -> None:
    talk = Talk(is_server=True)
    talk.accept()
    talk.play(frames.rst_stream(1, 8))
    assert talk.play(data(1, b"x")) == []
    assert [(f.kind, f.code) for f in talk.sent()] == [(frames.RST_STREAM, ErrorCode.STREAM_CLOSED)]


def test_pings_are_answered() -> None:
    talk = Talk(is_server=True)
    talk.play(frames.ping(b"12345678"))
    assert talk.sent() == [Frame(frames.PING, frames.ACK, 0, b"12345678")]


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
