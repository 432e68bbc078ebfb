"""The dialling end of an HTTP/2 connection: what it asks, how it follows the peer's settings, when it gives up."""

from __future__ import annotations

from agent.wire import h2_frames as frames
from agent.wire.h2_events import MIB, GoAwayReceived, HeadReceived, StreamReset, WindowOpened
from agent.wire.h2_frames import ErrorCode, Setting
from agent.wire.h2_headers import EMPTY_TABLE
from agent.wire.h2_tunnel import H2Tunnels
from tests.support.playbook import Frame, Talk, data, request, split


def test_it_announces_what_it_allows() -> None:
    codec = H2Tunnels(is_server=False, now_s=0.0)
    raw = codec.data_to_send()
    assert raw.startswith(frames.PREFACE)
    first, second = split(raw)
    assert first.settings == {4: MIB // 4, 5: MIB, 6: 16384, 2: 0}
    assert second == Frame(frames.WINDOW_UPDATE, 0, 0, (16 * MIB - 65535).to_bytes(4, "big"))


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


def test_interim_answers_are_skipped() -> None:
    talk = Talk(is_server=False)
    stream = talk.codec.open("a:1", [])
    assert talk.play(request(1, [(":status", "103")])) == []
    assert talk.play(request(1, [(":status", "200")]))[0].stream is stream


def test_client_refuses_data_before_the_answer() -> None:
    talk = Talk(is_server=False)
    talk.codec.open("a:1", [])
    reset = talk.play(data(1, b"x"))[0]
    assert (reset.code, reset.by_peer) == (ErrorCode.PROTOCOL_ERROR, False)
    assert talk.sent()[-1].code == ErrorCode.PROTOCOL_ERROR


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


def test_credit_by_the_byte_is_told_of_once() -> None:
    talk = Talk(is_server=False)
    stream = talk.open()
    talk.write(stream, 65535)
    mine, all_of_them = frames.window_update(stream.id, 1), frames.window_update(0, 1)
    assert talk.play(*[mine, all_of_them] * 1000) == [WindowOpened(stream), WindowOpened(None)]
    assert talk.codec.sendable(stream) == 1000
    assert talk.play(mine) == [WindowOpened(stream)], "the next time again"


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


def test_a_peer_without_settings_is_lost_when_the_first_ping_is_due() -> None:
    for is_server in (False, True):
        codec = H2Tunnels(is_server=is_server, now_s=0.0)
        codec.receive(memoryview(frames.PREFACE if is_server else b""), 5.0)
        assert not codec.is_greeted
        assert codec.tick(9.9) == 10.0
        assert codec.tick(10.0) is None


def test_a_ping_answer_nobody_asked_for_is_ignored() -> None:
    talk = Talk(is_server=False)
    talk.play(frames.ping(b"whatever", ack=True))
    assert talk.codec.tick(0.0) == 10.0


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
