"""Windows: what a receiver gives back and when, how a stream's window follows its reader, and what a sender leaves."""

from __future__ import annotations

import pytest

from agent.wire import h2_frames as frames
from agent.wire.h2_credit import CROWDED_S
from agent.wire.h2_events import MIB, Limits, Stream
from agent.wire.h2_frames import Setting
from agent.wire.h2_windows import FAST_S, SHARED_S, SLOW_S, window_change
from tests.support.playbook import Frame, Talk, data

FIRST = MIB // 4
KIB = 1 << 10
LATER_S = 1.0


def credit(stream_id: int, size: int) -> Frame:
    return Frame(frames.WINDOW_UPDATE, 0, stream_id, size.to_bytes(4, "big"))


def read(talk: Talk, stream: Stream, size: int, now_s: float) -> list[Frame]:
    """`size` bytes come and are consumed: what the peer hears."""
    talk.play(data(stream.id, bytes(size)))
    if talk.codec.consumed(stream, size):
        talk.codec.give_credit(stream, now_s)
    return talk.sent()


# -- as receiver


def test_credit_of_a_stream_comes_back_a_quarter_window_at_a_time() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    assert read(talk, stream, FIRST // 4 - 1, 0.5) == []
    assert read(talk, stream, 1, 0.5) == [credit(1, FIRST // 4)]


def test_a_connection_is_credited_for_what_nobody_reads() -> None:
    talk = Talk(is_server=True)
    given = 0
    for number in range(1, 100, 2):
        talk.accept(number)
        talk.play(data(number, bytes(FIRST)))
        assert talk.codec.receive_window >= 14 * MIB
        given += sum(int.from_bytes(frame.payload, "big") for frame in talk.sent() if not frame.stream_id)
    assert given == 50 * FIRST - (16 * MIB - talk.codec.receive_window)
    assert talk.codec.unread_bytes == 50 * FIRST


def test_a_stream_that_nobody_reads_gets_its_first_window_and_no_more() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    talk.play(data(1, bytes(FIRST)))
    assert stream.receive_window == 0 and talk.sent() == []


def test_a_window_doubles_while_it_is_read_fast_and_halves_when_it_is_not() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    now_s, windows = 0.0, []
    for _ in range(5):
        read(talk, stream, stream.window // 4, now_s)
        windows.append(stream.window)
        now_s += FAST_S / 2
    assert windows == [MIB // 2, MIB, 2 * MIB, 4 * MIB, 4 * MIB]
    # Between the two it stays.
    read(talk, stream, MIB, now_s := now_s + SLOW_S / 2)
    assert stream.window == 4 * MIB == stream.receive_window
    for _ in range(12):
        read(talk, stream, stream.window // 4, now_s := now_s + SLOW_S)
        assert stream.receive_window + stream.unreturned == stream.window >= FIRST
    assert stream.window == FIRST


@pytest.mark.parametrize(
    ("round_trip_s", "rate", "window"),
    [
        (50e-6, 400 * MIB, MIB),
        (50e-6, 40 * MIB, FIRST),
        (0.01, 400 * MIB, 4 * MIB),
        (0.01, 40 * MIB, 2 * MIB),
        (0.05, 4 * MIB, MIB),
        (3600.0, 4 * MIB, 2 * MIB),
        (3600.0, MIB, MIB // 2),
    ],
)
def test_a_window_grows_to_a_few_times_what_is_on_its_way(
    round_trip_s: float, rate: int, window: int
) -> None:
    """Read at `rate` bytes a second: what is beyond is a queue, in which the other streams of the connection wait."""
    talk = Talk(is_server=True)
    talk.codec.round_trip_s = lambda: round_trip_s
    stream = talk.accept()
    now_s = 0.0
    for _ in range(20):
        now_s += stream.window / 4 / rate
        read(talk, stream, stream.window // 4, now_s)
    assert stream.window == window


def test_what_one_stream_has_in_a_queue_is_given_back_where_others_wait_in_it() -> None:
    talk = Talk(is_server=True)
    talk.codec.round_trip_s = lambda: 50e-6
    bulk, asking = talk.accept(1), talk.accept(3)
    now_s = 1.0

    def carry(count: int) -> int:
        """So many quarters of a window, at 400 MiB a second."""
        nonlocal now_s
        for _ in range(count):
            now_s += bulk.window / 4 / (400 * MIB)
            read(talk, bulk, bulk.window // 4, now_s)
        return bulk.window

    assert carry(200) == MIB
    read(talk, asking, 100, now_s)
    shared = carry(200)
    assert FIRST <= shared < FIRST * 3 // 2, "once another one has received something"
    assert carry(200) == shared, "and does not grow again for being read in less time"
    now_s += SHARED_S
    assert carry(200) == MIB, "alone again"


@pytest.mark.parametrize("count", [1, 4])
def test_one_that_asks_for_little_waits_for_few_bytes_of_however_many_receive_much(count: int) -> None:
    talk = Talk(is_server=True)
    talk.codec.round_trip_s = lambda: 50e-6
    *bulk, asking = [talk.accept(2 * number + 1) for number in range(count + 1)]
    now_s, rate = 1.0, 400 * MIB * count

    def carry(asked: int) -> int:
        """So many seconds' worth of quarters each; what all of them may have in a queue then."""
        nonlocal now_s
        for turn in range(400):
            for stream in bulk:
                now_s += stream.window / 4 / rate
                read(talk, stream, stream.window // 4, now_s)
            if asked and turn % 20 == 0:
                read(talk, asking, asked, now_s)
        return sum(stream.window for stream in bulk)

    assert carry(asked=0) >= count * MIB
    assert carry(asked=128) < count * FIRST * 3 // 2
    carry(asked=0)
    now_s += SHARED_S
    assert carry(asked=0) >= count * MIB, "and have it back once it has gone"


def test_what_one_received_long_ago_takes_no_window_from_who_begins_now() -> None:
    talk = Talk(is_server=True)
    talk.codec.round_trip_s = lambda: 50e-6
    bulk, asking = talk.accept(1), talk.accept(3)
    read(talk, asking, 100, 1.0)
    now_s = 60.0
    for _ in range(200):
        now_s += bulk.window / 4 / (400 * MIB)
        read(talk, bulk, bulk.window // 4, now_s)
    assert bulk.window == MIB


def test_streams_that_all_receive_much_keep_their_windows() -> None:
    talk = Talk(is_server=True)
    talk.codec.round_trip_s = lambda: 50e-6
    streams = [talk.accept(number) for number in (1, 3, 5)]
    now_s = 1.0
    for _ in range(500):
        for stream in streams:
            now_s += stream.window / 4 / (1200 * MIB)
            read(talk, stream, stream.window // 4, now_s)
    assert min(stream.window for stream in streams) >= MIB


def test_streams_that_share_a_long_path_have_what_is_on_its_way() -> None:
    talk = Talk(is_server=True)
    talk.codec.round_trip_s = lambda: 0.05
    streams = [talk.accept(number) for number in (1, 3)]
    now_s = 1.0
    for _ in range(40):
        now_s += max(stream.window for stream in streams) / 4 / (8 * MIB)
        for stream in streams:
            read(talk, stream, stream.window // 4, now_s)
    assert all(stream.window >= 8 * MIB * 0.05 * 2 for stream in streams)


def test_windows_of_a_connection_grow_alike_and_give_their_room_back() -> None:
    talk = Talk(is_server=True)
    streams = [talk.accept(number) for number in range(1, 17, 2)]
    for _ in range(5):
        for stream in streams:
            read(talk, stream, stream.window // 4, 0.0)
    assert {stream.window for stream in streams} == {2 * MIB}
    for stream in streams[:4]:
        talk.codec.reset(stream, frames.ErrorCode.CANCEL)
    for stream in streams[4:]:
        read(talk, stream, stream.window // 4, 0.0)
    assert max(stream.window for stream in streams[4:]) == 4 * MIB


def test_no_window_grows_while_memory_is_short() -> None:
    talk = Talk(is_server=True)
    talk.codec.may_grow = lambda: False
    stream = talk.accept()
    assert read(talk, stream, FIRST // 4, 0.0) == [credit(1, FIRST // 4)]


@pytest.mark.parametrize("first", [1, 70_000, FIRST])
@pytest.mark.parametrize("most", [70_000, MIB, 4 * MIB])
@pytest.mark.parametrize("room", [0, MIB, 16 * MIB])
@pytest.mark.parametrize("elapsed_s", [0.0, FAST_S, 0.5, SLOW_S, 1e9])
def test_a_window_stays_between_its_bounds(first: int, most: int, room: int, elapsed_s: float) -> None:
    window = first = min(first, most)
    for _ in range(30):
        change = window_change(window, elapsed_s, first=first, most=most, room=room)
        window, room = window + change, room - change
        assert first <= window <= most and room >= 0


def test_padding_and_data_of_closed_streams_count_as_consumed() -> None:
    talk = Talk(is_server=True)
    stream = talk.accept()
    talk.play(frames.frame(frames.DATA, frames.PADDED, 1, b"\x63" + bytes(199)))
    assert talk.codec.unread_bytes == 100
    talk.codec.reset(stream, frames.ErrorCode.CANCEL)
    talk.play(data(1, bytes(500)))
    assert talk.codec.unread_bytes == 100
    talk.codec.consumed(stream, 100)
    assert talk.codec.unread_bytes == 0


# -- as sender, towards a peer whose windows are 4 MiB and 16 MiB


def sender() -> Talk:
    hello = frames.settings(
        {
            Setting.INITIAL_WINDOW_SIZE: 4 * MIB,
            Setting.MAX_FRAME_SIZE: MIB,
            Setting.MAX_CONCURRENT_STREAMS: 200,
        }
    )
    talk = Talk(is_server=False, settings=hello + frames.window_update(0, 16 * MIB - 65535))
    assert talk.codec.peer_connection_window == 16 * MIB
    return talk


def push(talk: Talk, stream: Stream, batch: int = FIRST) -> int:
    """Send as much as may be; how much that was."""
    sent = 0
    while (size := min(talk.codec.sendable(stream), batch)) > 0:
        talk.write(stream, size)
        sent += size
    return sent


def test_one_stream_may_use_all_that_the_peer_gives_it() -> None:
    talk = sender()
    assert push(talk, talk.open()) == 4 * MIB


def test_three_stalled_streams_leave_half_of_the_peers_window() -> None:
    talk = sender()
    streams = [talk.open() for _ in range(3)]
    assert [push(talk, stream) for stream in streams] == [4 * MIB, 2 * MIB, 2 * MIB]
    assert not talk.codec.is_crowded(LATER_S)
    echo = talk.open()
    # Twice as much as brings credit for the connection: it is read, so it gets on.
    for _ in range(64):
        assert talk.codec.sendable(echo) >= FIRST
        talk.write(echo, FIRST)
        talk.play(frames.window_update(echo.id, FIRST), frames.window_update(0, FIRST))


def test_a_stream_that_was_held_back_goes_on_when_it_is_read() -> None:
    talk = sender()
    streams = [talk.open() for _ in range(8)]
    for stream in streams:
        push(talk, stream)
    assert talk.codec.is_crowded(LATER_S)
    assert max(talk.codec.sendable(stream) for stream in streams) <= 0
    talk.play(frames.window_update(streams[3].id, 2 * MIB), frames.window_update(0, 2 * MIB))
    assert talk.codec.sendable(streams[3]) > 0 >= talk.codec.sendable(streams[0])


def test_a_connection_is_crowded_below_half_of_its_window_and_recovers() -> None:
    talk = sender()
    held = 0
    while held <= 8 * MIB:
        assert not talk.codec.is_crowded(LATER_S)
        held += push(talk, talk.open())
    assert talk.codec.is_crowded(LATER_S)
    talk.play(frames.window_update(1, 4 * MIB), frames.window_update(0, 4 * MIB))
    assert not talk.codec.is_crowded(LATER_S)


def test_a_connection_whose_window_is_taken_for_a_moment_is_not_crowded() -> None:
    talk = sender()
    stream = talk.open()
    others = [talk.open() for _ in range(3)]
    while talk.now_s < LATER_S:
        for each in (stream, *others):
            push(talk, each)
        assert talk.codec.send_window < 8 * MIB and not talk.codec.is_crowded(talk.now_s)
        talk.now_s += CROWDED_S * 0.9
        assert not talk.codec.is_crowded(talk.now_s)
        for each in (stream, *others):
            talk.play(frames.window_update(each.id, 4 * MIB - each.send_window))
        talk.play(frames.window_update(0, 16 * MIB - talk.codec.send_window))


def test_credit_that_leaves_half_of_a_window_taken_is_no_recovery() -> None:
    """Somebody is read, but those who are not hold the rest."""
    talk = sender()
    streams = [talk.open() for _ in range(8)]
    for stream in streams:
        push(talk, stream)
    while talk.now_s < LATER_S:
        talk.now_s += CROWDED_S / 2
        talk.play(frames.window_update(streams[0].id, FIRST), frames.window_update(0, FIRST))
        talk.write(streams[0], FIRST)
    assert talk.codec.is_crowded(talk.now_s)


def test_a_peer_that_lets_windows_grow_is_not_held_back() -> None:
    """What it gave beyond the first window is not outstanding."""
    ours, peer = sender(), Limits()
    ours.play(frames.settings({Setting.INITIAL_WINDOW_SIZE: peer.first_window_bytes}))
    streams = [ours.open() for _ in range(3)]
    for stream in streams:
        ours.play(frames.window_update(stream.id, 4 * MIB - peer.first_window_bytes))
        ours.write(stream, 3 * MIB)
    assert all(ours.codec.sendable(stream) == MIB for stream in streams)
