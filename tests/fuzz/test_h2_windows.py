"""Flow control for any order of sending, reading and resetting: the books of both ends agree, and nobody starves."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire import h2_frames as frames
from agent.wire.h2_events import MIB, DataReceived, Limits, Stream
from agent.wire.h2_frames import ErrorCode, Setting
from agent.wire.h2_tunnel import H2Tunnels
from tests.support.playbook import Talk

LIMITS = Limits(stream_window_bytes=MIB, connection_window_bytes=3 * MIB // 2, peer_streams=50)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "send", "send", "read", "read", "reset", "end", "wait", "short"]),
        st.integers(0, 3),
        st.sampled_from([1, 4095, 70_000, 299_999, 400_000]) | st.integers(1, 400_000),
    ),
    max_size=60,
)


@dataclass
class Reading:
    """What the receiving application has of one stream and has not read."""

    stream: Stream
    unread: int = 0


@dataclass
class Ends:
    """A client that sends and a server whose applications read when they are told to."""

    now_s: float = 0.0
    is_short: bool = False
    readings: list[Reading] = field(default_factory=list)
    """Every stream ever opened, as the server has it."""
    sending: list[Stream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = H2Tunnels(is_server=False, now_s=0.0, limits=LIMITS)
        self.server = H2Tunnels(is_server=True, now_s=0.0, limits=LIMITS)
        self.server.may_grow = lambda: not self.is_short
        self.exchange()

    def exchange(self, payload: bytes = b"") -> None:
        to_server = self.client.data_to_send() + payload
        while to_server or self.server.out:
            for event in self.server.receive(memoryview(to_server), self.now_s):
                if isinstance(event, DataReceived):
                    self.reading(event.stream).unread += len(event.data)
            self.client.receive(memoryview(self.server.data_to_send()), self.now_s)
            to_server = self.client.data_to_send()
        assert not self.server.failed and not self.client.failed

    def reading(self, stream: Stream) -> Reading:
        return next(each for each in self.readings if each.stream is stream)

    # -- actions

    def do_open(self, _: int, size: int) -> None:
        if len(self.client.streams) >= LIMITS.peer_streams:
            return
        stream = self.client.open("10.0.0.1:80", [])
        self.exchange()
        theirs = self.server.streams[stream.id]
        self.server.answer(theirs, 200, [], ended=False)
        self.sending.append(stream)
        self.readings.append(Reading(theirs))

    def do_send(self, which: int, size: int) -> None:
        stream = self.sending[which % len(self.sending)]
        size = min(size, self.client.sendable(stream))
        if size > 0:
            frame = bytearray(9 + size)
            self.client.data_header_into(memoryview(frame), 0, stream, size)
            self.exchange(bytes(frame))

    def do_read(self, which: int, size: int) -> None:
        reading = self.readings[which % len(self.readings)]
        size = min(size, reading.unread)
        if size:
            reading.unread -= size
            if self.server.consumed(reading.stream, size):
                self.server.give_credit(reading.stream, self.now_s)

    def do_reset(self, which: int, size: int) -> None:
        """By either end; what the application had may still be read."""
        number = which % len(self.sending)
        if size % 2:
            self.client.reset(self.sending[number], ErrorCode.CANCEL)
        else:
            self.server.reset(self.readings[number].stream, ErrorCode.CANCEL)

    def do_end(self, which: int, size: int) -> None:
        if size % 2:
            self.client.end(self.sending[which % len(self.sending)])
        else:
            self.server.end(self.readings[which % len(self.readings)].stream)

    def do_wait(self, _: int, size: int) -> None:
        self.now_s += size / 300_000

    def do_short(self, _: int, size: int) -> None:
        self.is_short = bool(size % 2)

    # -- what holds after each

    def check(self) -> None:
        client, server = self.client, self.server
        assert server.unread_bytes == sum(each.unread for each in self.readings)
        assert client.send_window == server.receive_window >= LIMITS.connection_window_bytes * 7 // 8
        first, live = LIMITS.first_window_bytes, 0
        for ours, reading in zip(self.sending, self.readings, strict=True):
            stream = reading.stream
            if stream.remote_open:
                live += reading.unread
                assert stream.receive_window + stream.unreturned + reading.unread == stream.window
                assert first <= stream.window <= LIMITS.stream_window_bytes
            if ours.local_open and stream.remote_open:
                assert ours.send_window == stream.receive_window
                # Half of a window is never missing where nothing is unread.
                assert reading.unread or client.sendable(ours) > 0
        grown = sum(stream.window - first for stream in server.streams.values())
        assert 0 <= grown == server._grown <= LIMITS.connection_window_bytes
        assert live <= len(server.streams) * first + LIMITS.connection_window_bytes


@settings(max_examples=150)
@given(ACTIONS)
def test_the_books_of_both_ends_agree_and_whoever_is_read_may_send(
    actions: list[tuple[str, int, int]],
) -> None:
    ends = Ends()
    for name, which, size in [("open", 0, 1), ("open", 0, 1), *actions]:
        getattr(ends, "do_" + name)(which, size)
        ends.exchange()
        ends.check()


class FixedPeer:
    """A receiver as others are: fixed windows, and credit by what was read.

    It is due when `share` of a window was; with `shrinking`, of what is left of the window, as of Rust's h2.
    """

    STREAM, CONNECTION = 4 * MIB, 16 * MIB

    def __init__(self, count: int, share: float, *, shrinking: bool) -> None:
        hello = frames.settings({Setting.INITIAL_WINDOW_SIZE: self.STREAM, Setting.MAX_FRAME_SIZE: MIB})
        self.talk = Talk(
            is_server=False, settings=hello + frames.window_update(0, self.CONNECTION - frames.DEFAULT_WINDOW)
        )
        self.streams = [self.talk.open() for _ in range(count)]
        self.unread = dict.fromkeys(self.streams, 0)
        self.owed = dict.fromkeys(self.streams, 0)
        self.owed_to_all = 0
        self.share = share
        self.shrinking = shrinking

    def send(self, stream: Stream, size: int) -> int:
        size = min(size, self.talk.codec.sendable(stream))
        if size <= 0:
            return 0
        self.talk.write(stream, size)
        self.unread[stream] += size
        return size

    def read(self, stream: Stream) -> None:
        size, self.unread[stream] = self.unread[stream], 0
        self.owed[stream] += size
        self.owed_to_all += size
        codec = self.talk.codec
        if self.owed[stream] >= (stream.send_window if self.shrinking else self.STREAM) * self.share:
            self.talk.play(frames.window_update(stream.id, self.owed[stream]))
            self.owed[stream] = 0
        if self.owed_to_all >= (codec.send_window if self.shrinking else self.CONNECTION) * self.share:
            self.talk.play(frames.window_update(0, self.owed_to_all))
            self.owed_to_all = 0


@settings(max_examples=150)
@given(
    st.sampled_from([(0.5, False, 3), (0.25, False, 4), (0.01, False, 6), (0.5, True, 6)]),
    st.integers(7, 12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, MIB // 4)), max_size=120),
)
def test_some_streams_that_are_not_read_stop_no_other_towards_a_peer_with_fixed_windows(
    kind: tuple[float, bool, int], count: int, sends: list[tuple[int, int]]
) -> None:
    share, shrinking, stalled = kind
    peer = FixedPeer(count, share, shrinking=shrinking)
    reading = peer.streams[stalled:]
    for which, size in sends:
        stream = peer.streams[which % count]
        if peer.send(stream, size) and stream in reading:
            peer.read(stream)
    left = dict.fromkeys(peer.streams, 12 * MIB)
    while any(left[stream] for stream in reading):
        moved = 0
        for stream in peer.streams:
            size = peer.send(stream, min(left[stream], MIB // 4))
            left[stream] -= size
            if size and stream in reading:
                peer.read(stream)
                moved += size
        assert moved, "nobody whose reader reads gets on"
