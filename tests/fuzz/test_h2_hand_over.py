"""HTTP/2 that is handed over between any two bytes goes on as if it had not been: by a twin that never was.

Both hear the same, do the same, and must say the same and be at the same. What the peer says is legal and not: floods,
late frames, cut header blocks, compression with state.
"""

from __future__ import annotations

import random
from dataclasses import replace

import hpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.config import options
from agent.model.unit import BadUnit, PlainValue, Unit, decode, encode
from agent.wire import h2_frames as frames
from agent.wire.h2_events import DataReceived, Event, HeadReceived, Limits, Stream, StreamReset, WindowOpened
from agent.wire.h2_frames import ErrorCode, Setting
from agent.wire.h2_tunnel import H2Tunnels
from tests.support.playbook import data

LIMITS = {
    True: Limits(stream_window_bytes=1 << 20, connection_window_bytes=1 << 20, peer_streams=4),
    False: Limits(stream_window_bytes=1 << 20, connection_window_bytes=1 << 20),
}
OPTIONAL = {
    "stream_window_bytes": (1 << 31) - 1,
    "connection_window_bytes": (1 << 31) - 1,
    "frame_bytes": (1 << 24) - 1,
}
"""The most that each of these may be set to."""
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(
                    "ask",
                    "ask",
                    "parts",
                    "data",
                    "data",
                    "data",
                    "padded",
                    "finish",
                    "rst",
                    "settings",
                    "ping",
                    "update",
                ),
                *(
                    "goaway",
                    "unknown",
                    "empty",
                    "open",
                    "answer",
                    "answer",
                    "consume",
                    "consume",
                    "end",
                    "reset",
                    "write",
                ),
                *("leave", "tick", "wait", "wait", "flood"),
            ]
        ),
        st.integers(0, 5),
        st.integers(1, 120_000),
    ),
    max_size=50,
)


def moved(codec: H2Tunnels, now_s: float) -> H2Tunnels:
    """The same connection in another process; users of its streams go along."""
    fields = decode(encode(Unit("http2", codec.state(now_s)))).fields
    return H2Tunnels.from_state(fields, is_server=codec.is_server, now_s=now_s, limits=codec.limits)


def told(event: Event) -> tuple[object, ...]:
    """What an event says, in values that two connections have in common."""
    stream = getattr(event, "stream", None)
    stream_id = stream.id if isinstance(stream, Stream) else None
    if isinstance(event, DataReceived):
        return ("data", stream_id, bytes(event.data), event.ended)
    if isinstance(event, HeadReceived):
        return ("head", stream_id, event.fields, event.ended)
    if isinstance(event, StreamReset):
        return ("reset", stream_id, event.code, event.by_peer, event.text)
    return (type(event).__name__, stream_id if isinstance(event, WindowOpened) else str(event))


class Twins:
    """`stays` is never moved, `moves` before every step. Times are binary fractions: sums of them are exact."""

    def __init__(self, *, is_server: bool, seed: int) -> None:
        self.is_server = is_server
        self.rng = random.Random(seed)
        self.now_s = 1000.0
        limits = LIMITS[is_server]
        self.stays = H2Tunnels(is_server=is_server, now_s=self.now_s, limits=limits)
        self.moves = H2Tunnels(is_server=is_server, now_s=self.now_s, limits=limits)
        self.encoder = hpack.Encoder()
        self.next_id = 1
        self.owed: dict[int, int] = {}
        self.hear(
            (frames.PREFACE if is_server else b"")
            + frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 17, Setting.MAX_FRAME_SIZE: 1 << 15})
            + frames.window_update(0, 1 << 18)
        )

    def both(self) -> tuple[H2Tunnels, H2Tunnels]:
        self.sent()
        self.moves = moved(self.moves, self.now_s)
        assert self.moves.state(self.now_s) == self.stays.state(self.now_s)
        return self.stays, self.moves

    def sent(self) -> None:
        assert self.stays.data_to_send() == self.moves.data_to_send()

    def hear(self, said: bytes) -> None:
        """In one piece, and in pieces with a move between each two."""
        cuts = sorted(self.rng.sample(range(len(said) + 1), min(3, len(said) + 1)))
        for piece in (said[one:two] for one, two in zip([0, *cuts], [*cuts, len(said)], strict=True)):
            heard = []
            for codec in self.both():
                if codec.failed:
                    return
                heard.append([told(event) for event in codec.receive(memoryview(piece), self.now_s)])
            assert heard[0] == heard[1]
            for event in heard[0]:
                if event[0] == "data":
                    assert isinstance(event[1], int) and isinstance(event[2], bytes)
                    self.owed[event[1]] = self.owed.get(event[1], 0) + len(event[2])
            if self.stays.failed:
                self.sent()
                return

    def stream(self, which: int) -> int | None:
        ids = list(self.stays.streams)
        return ids[which % len(ids)] if ids else None

    def any_id(self, which: int) -> int:
        """Of a stream that is there, or was, or never."""
        return self.stream(which) or max(1, self.next_id - 2)

    # -- the peer

    def head(self, size: int) -> bytes:
        fields = [(":method", "CONNECT"), (":authority", f"10.0.0.1:{size}")]
        if not self.is_server:
            fields = [(":status", "200")]
        return self.encoder.encode([*fields, ("x-note", str(size % 7)), ("x-more", "y" * (size % 50))])

    def head_id(self, which: int) -> int | None:
        if not self.is_server:
            return self.stream(which)
        self.next_id += 2
        return self.next_id - 2

    def do_ask(self, which: int, size: int) -> None:
        if (stream_id := self.head_id(which)) is not None:
            self.hear(frames.headers(stream_id, self.head(size), ended=which == 5, frame_bytes=16384))

    def do_parts(self, which: int, size: int) -> None:
        if (stream_id := self.head_id(which)) is not None:
            block = self.head(size)
            self.hear(frames.headers(stream_id, block, ended=which == 5, frame_bytes=max(1, len(block) // 3)))

    def do_data(self, which: int, size: int) -> None:
        stream_id = self.any_id(which)
        stream = self.stays.streams.get(stream_id)
        if stream is not None and which != 4:
            size = min(size, stream.receive_window)
        self.hear(data(stream_id, self.rng.randbytes(size), ended=which == 5))

    def do_padded(self, which: int, size: int) -> None:
        padding = size % 200
        payload = bytes((padding,)) + self.rng.randbytes(size % 3000) + bytes(padding)
        self.hear(frames.frame(frames.DATA, frames.PADDED, self.any_id(which), payload))

    def do_finish(self, which: int, size: int) -> None:
        self.hear(data(self.any_id(which), b"", ended=True))

    def do_rst(self, which: int, size: int) -> None:
        self.hear(frames.rst_stream(self.any_id(which), ErrorCode.CANCEL))

    def do_settings(self, which: int, size: int) -> None:
        values = {Setting.INITIAL_WINDOW_SIZE: size, Setting.MAX_CONCURRENT_STREAMS: which}
        if which == 3:
            values[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        self.hear(frames.settings(values))

    def do_ping(self, which: int, size: int) -> None:
        payload = (b"ztunping", b"ztun-end", b"anything")[which % 3]
        self.hear(frames.ping(payload, ack=which < 5))

    def do_update(self, which: int, size: int) -> None:
        self.hear(frames.window_update(self.any_id(which) if which else 0, size))

    def do_goaway(self, which: int, size: int) -> None:
        if size % 4 == 0:
            self.hear(frames.goaway(which, ErrorCode.NO_ERROR, "weary"))

    def do_unknown(self, which: int, size: int) -> None:
        self.hear(frames.frame(0xBE, 0, which, bytes(size % 30)))

    def do_empty(self, which: int, size: int) -> None:
        self.hear(data(self.any_id(which), b""))

    def do_flood(self, which: int, size: int) -> None:
        """Of what has a budget, more than half of it."""
        noise = [
            frames.ping(b"anything"),
            frames.settings({}),
            frames.frame(0xBE, 0, 0),
            frames.window_update(0, 1),
        ]
        self.hear(noise[which % 4] * (120 if which % 4 < 2 else 1500))

    # -- this end

    def do_open(self, which: int, size: int) -> None:
        if not self.is_server:
            for codec in self.both():
                if codec.can_open:
                    codec.open(f"10.0.0.1:{size}", [("n", str(which))])

    def act(self, which: int, action: str, *arguments: object) -> None:
        stream_id = self.stream(which)
        if stream_id is not None:
            for codec in self.both():
                getattr(codec, action)(codec.streams[stream_id], *arguments)

    def do_answer(self, which: int, size: int) -> None:
        if self.is_server:
            for codec in self.both():
                for stream in list(codec.streams.values()):
                    if not stream.is_answered:
                        codec.answer(stream, 200, [("n", str(size))], ended=which == 5)

    def do_consume(self, which: int, size: int) -> None:
        stream_id = self.stream(which)
        if stream_id is None or not (owed := self.owed.get(stream_id, 0)):
            return
        size = owed if which < 3 else min(size, owed)
        self.owed[stream_id] -= size
        for codec in self.both():
            stream = codec.streams[stream_id]
            if codec.consumed(stream, size):
                codec.give_credit(stream, self.now_s)

    def do_end(self, which: int, size: int) -> None:
        self.act(which, "end")

    def do_reset(self, which: int, size: int) -> None:
        self.act(which, "reset", ErrorCode.CONNECT_ERROR)

    def do_write(self, which: int, size: int) -> None:
        stream_id = self.stream(which)
        if stream_id is not None:
            one, two = self.both()
            room = [codec.sendable(codec.streams[stream_id]) for codec in (one, two)]
            assert room[0] == room[1]
            if (size := min(size, room[0])) > 0:
                for codec in (one, two):
                    codec.data_header_into(memoryview(bytearray(9)), 0, codec.streams[stream_id], size)

    def do_leave(self, which: int, size: int) -> None:
        if size % 3 == 0:
            for codec in self.both():
                codec.go_away("leaving" if which == 5 else "")

    def do_tick(self, which: int, size: int) -> None:
        due = [codec.tick(self.now_s) for codec in self.both()]
        assert due[0] == due[1]

    def do_wait(self, which: int, size: int) -> None:
        self.now_s += which if size % 3 else which / 64


OPENED = [("ask", 0, 1), ("ask", 0, 1), ("ask", 0, 1), ("answer", 0, 1)]
SLOWLY_READ = [*OPENED, ("data", 0, 70_000), ("wait", 5, 1), ("consume", 0, 1)]
CROWDED = [*OPENED, *[("write", which, 1 << 15) for which in (0, 1, 2)] * 4, ("wait", 5, 1)]
MUCH, LITTLE = (
    [("data", 0, 99_999), ("data", 0, 99_999), ("consume", 0, 1)],
    [("data", 1, 10_000), ("consume", 1, 1)],
)
MOST_OF_IT = [
    *(*OPENED, *MUCH, *LITTLE, ("wait", 5, 3), *MUCH),
    *(*[("wait", 5, 3)] * 7, *MUCH, *LITTLE, ("wait", 5, 3), *MUCH),
]
"""One stream got most of what was read, so that its window shrinks sooner."""
TAKEN_BACK = [("ask", 0, 1), ("reset", 0, 1), *[("rst", 0, 1)] * 5]


@settings(max_examples=150)
@example(True, 0, SLOWLY_READ)
@example(True, 0, CROWDED)
@example(True, 0, MOST_OF_IT)
@example(True, 0, TAKEN_BACK)
@given(st.booleans(), st.integers(0, 1 << 16), ACTIONS)
def test_a_connection_that_is_handed_over_before_every_step_is_none_the_wiser(
    is_server: bool, seed: int, actions: list[tuple[str, int, int]]
) -> None:
    twins = Twins(is_server=is_server, seed=seed)
    for action, which, size in actions:
        getattr(twins, f"do_{action}")(which, size)
        twins.sent()
        if twins.stays.failed:
            assert twins.moves.failed
            return
        crowded = [codec.is_crowded(twins.now_s) for codec in twins.both()]
        finished = [codec.is_finished for codec in twins.both()]
        assert crowded[0] == crowded[1] and finished[0] == finished[1]


KEPT_BY_OTHERS = {
    "limits",
    "is_server",
    "may_grow",
    "round_trip_s",
    "out",
    "failed",
    "_now_s",
    "_events",
    "_opened",
}
"""Who makes the connection says these, or they last for one call."""
LAPSED = {"_block_stream_id", "_block_ends", "_data_stream", "_data_ends", "_shared_until_s"}
"""Of a frame or header block that is whole by now, or a time that is over."""


@pytest.mark.skipif(
    not hasattr(H2Tunnels(is_server=True, now_s=0.0), "__dict__"), reason="compiled: fields unknown"
)
def test_every_field_of_a_connection_is_carried_or_follows_from_those_that_are() -> None:
    """So that a field which is new is thought of."""
    twins = Twins(is_server=True, seed=1)
    for action in ("ask", "answer", "data", "write", "reset", "ask", "settings", "consume"):
        getattr(twins, f"do_{action}")(3, 33_000)
    stays, moves = twins.both()
    assert vars(moves).keys() == vars(stays).keys()
    for name in vars(stays).keys() - KEPT_BY_OTHERS - LAPSED:
        assert image(vars(moves)[name]) == image(vars(stays)[name]), name


def image(value: object) -> object:
    """Comparable, down to the slots of streams and budgets."""
    if isinstance(value, dict):
        return {key: image(item) for key, item in value.items()}
    if isinstance(value, hpack.Decoder):
        return value.header_table_size, list(value.header_table.dynamic_entries)
    if slots := getattr(type(value), "__slots__", None):
        return {name: image(getattr(value, name)) for name in slots}
    return value


def test_limits_that_a_peer_was_told_hold_where_ours_are_lower_and_what_nobody_may_set_is_refused() -> None:
    codec = H2Tunnels(is_server=True, now_s=0.0, limits=LIMITS[True])
    codec.data_to_send()
    state = codec.state(0.0)
    told_limits = state["limits"]
    assert isinstance(told_limits, dict)
    for own in ({}, dict.fromkeys(OPTIONAL, 1), {name: value + 1 for name, value in OPTIONAL.items()}):
        made = H2Tunnels.from_state(state, is_server=True, now_s=0.0, limits=replace(LIMITS[True], **own))
        assert made.limits == LIMITS[True]
    largest = {**state, "limits": {**told_limits, **OPTIONAL}}
    assert H2Tunnels.from_state(largest, is_server=True, now_s=0.0, limits=LIMITS[True]).limits.plain() == {
        **told_limits,
        **OPTIONAL,
    }
    for name, value in OPTIONAL.items():
        assert options()[name].kind.parse(str(value)) == value
        with pytest.raises(ValueError, match="whole number"):
            options()[name].kind.parse(str(value + 1))
    for name, value in {**told_limits, **OPTIONAL}.items():
        beyond = {**state, "limits": {**told_limits, name: value + 1}}
        with pytest.raises(BadUnit, match=f"the limits: {name}"):
            H2Tunnels.from_state(beyond, is_server=True, now_s=0.0, limits=LIMITS[True])


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_peer_has_no_longer_for_a_ping_than_its_new_end_gives(is_asked: bool) -> None:
    """And a connection is not refused because the one before was more patient."""
    codec = H2Tunnels(is_server=True, now_s=0.0, limits=replace(LIMITS[True], ping_after_s=500.0))
    state = {**codec.state(0.0), "greeted": True, "ping_sent": is_asked}
    own = replace(LIMITS[True], ping_after_s=3.0, ping_timeout_s=5.0)
    made = H2Tunnels.from_state(state, is_server=True, now_s=0.0, limits=own)
    made.data_to_send()
    assert made.tick(4.9) == 5.0
    assert made.tick(5.0) == (None if is_asked else 10.0)


def refused(change: dict[str, PlainValue], stream: dict[str, PlainValue] | None = None) -> None:
    twins = Twins(is_server=True, seed=1)
    twins.do_ask(0, 1)
    twins.do_answer(0, 1)
    state = twins.stays.state(0.0)
    (told_stream,) = state["streams"]  # type: ignore[misc]
    assert isinstance(told_stream, dict)
    state = {**state, "streams": [{**told_stream, **(stream or {})}], **change}
    with pytest.raises(BadUnit):
        H2Tunnels.from_state(state, is_server=True, now_s=0.0, limits=LIMITS[True])


@pytest.mark.parametrize(
    ("change", "stream"),
    [
        ({"consumed": 1}, {}),
        ({"receive_window": (1 << 20) + 1}, {}),
        ({"data_left": (1 << 20) + 1}, {}),
        ({"data_stream": 1}, {}),
        ({"data_stream": 3, "data_left": 1}, {}),
        ({"last_peer_id": 0}, {}),
        ({"preface": b"GET /"}, {}),
        ({}, {"id": 2}),
        ({}, {"receive_window": 0, "window": 100, "unreturned": 101}),
        ({}, {"window": (1 << 20) + 1}),
        ({}, {"local_open": False, "remote_open": False}),
        ({"headers": {"table_bytes": 4097, "rows": []}}, {}),
        ({"headers": {"table_bytes": 40, "rows": [b"name", b"longer than that"]}}, {}),
        ({"headers": {"table_bytes": 4096, "rows": [b"name"]}}, {}),
    ],
)
def test_a_connection_at_odds_with_itself_is_refused(
    change: dict[str, PlainValue], stream: dict[str, PlainValue]
) -> None:
    refused(change, stream)
