"""What an HTTP/2 connection reports to its owner, the state of one stream, and the connection's limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agent.model.unit import PlainValue, State, StateReader
from agent.wire.h2_frames import LARGEST_FRAME_BYTES, MAX_STREAM_ID, MAX_WINDOW

MIB = 1 << 20
FIRST_WINDOW_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Limits:
    """What this end allows its peer, and how it checks that the peer lives (docs/WIRE.md#settings)."""

    stream_window_bytes: int = 4 * MIB
    """The largest window of a stream; it begins with `first_window_bytes` (`h2_windows` says how it grows)."""
    connection_window_bytes: int = 16 * MIB
    """What may be on its way at once, and by how much the windows of all streams may have grown together."""
    frame_bytes: int = MIB
    header_list_bytes: int = 16384
    peer_streams: int = 0
    """How many streams the peer may have open at once; a client allows none."""
    ping_after_s: float = 10.0
    ping_timeout_s: float = 20.0

    @property
    def first_window_bytes(self) -> int:
        """The window a stream begins with: what one that nobody reads holds in memory."""
        return min(FIRST_WINDOW_BYTES, self.stream_window_bytes)

    def plain(self) -> State:
        """What the peer was told, and what follows from it. The times are of who keeps them."""
        return {
            "stream_window_bytes": self.stream_window_bytes,
            "connection_window_bytes": self.connection_window_bytes,
            "frame_bytes": self.frame_bytes,
            "header_list_bytes": self.header_list_bytes,
            "peer_streams": self.peer_streams,
        }

    @classmethod
    def from_plain(cls, value: PlainValue, own: Limits) -> Limits:
        """What the peer was told stays, also where it is more than `own`: options may have been lowered since, and the
        peer sends by what it knows. Times are of `own`. Raises BadUnit above what any configuration may have said.
        """
        fields = StateReader("the limits", value)
        limits = replace(
            own,
            stream_window_bytes=fields.integer("stream_window_bytes", 0, MAX_WINDOW),
            connection_window_bytes=fields.integer("connection_window_bytes", 1, MAX_WINDOW),
            frame_bytes=fields.integer("frame_bytes", 1, LARGEST_FRAME_BYTES),
            header_list_bytes=fields.integer("header_list_bytes", 0, own.header_list_bytes),
            peer_streams=fields.integer("peer_streams", 0, own.peer_streams),
        )
        fields.done()
        return limits


CLIENT_LIMITS = Limits()
SERVER_LIMITS = Limits(header_list_bytes=65536, peer_streams=200)


class Stream:
    """One stream, both directions. `owner` is the user's; everything else belongs to the codec."""

    __slots__ = (
        "credited_at_s",
        "got",
        "id",
        "is_answered",
        "is_headed",
        "local_open",
        "owner",
        "quarter",
        "receive_window",
        "remote_open",
        "seen_consumed",
        "send_window",
        "unreturned",
        "weighed_at_s",
        "window",
    )

    def __init__(self, stream_id: int, send_window: int, receive_window: int, now_s: float) -> None:
        self.id = stream_id
        self.send_window = send_window
        self.receive_window = self.window = receive_window
        """What the peer may still send, and that with what nobody has consumed yet (`unreturned` included)."""
        self.quarter = receive_window >> 2
        self.unreturned = 0
        """Bytes the user is done with, for which the peer has not got credit back yet."""
        self.credited_at_s = now_s
        self.weighed_at_s = now_s
        self.got = self.seen_consumed = 0
        """Since it was weighed against the others what was credited, and what of that had been consumed before."""
        self.local_open = self.remote_open = True
        self.is_headed = False
        """The peer's first HEADERS (not interim) came; more of them are trailers."""
        self.is_answered = False
        """The final answer was sent (server) or received (client)."""
        self.owner: Any = None

    def __repr__(self) -> str:
        return f"Stream({self.id})"

    def state(self, now_s: float) -> State:
        return {
            "id": self.id,
            "send_window": self.send_window,
            "receive_window": self.receive_window,
            "window": self.window,
            "unreturned": self.unreturned,
            "credited_age_s": now_s - self.credited_at_s,
            "weighed_age_s": now_s - self.weighed_at_s,
            "got": self.got,
            "seen_consumed": self.seen_consumed,
            "local_open": self.local_open,
            "remote_open": self.remote_open,
            "is_headed": self.is_headed,
            "is_answered": self.is_answered,
        }

    @classmethod
    def from_state(cls, fields: StateReader, most_window: int, now_s: float) -> Stream:
        """Without its owner. `most_window` is what the window of a stream may grow to. Raises BadUnit."""
        stream = cls(
            fields.integer("id", 1, MAX_STREAM_ID),
            fields.integer("send_window", -MAX_WINDOW, MAX_WINDOW),
            fields.integer("window", 0, most_window),
            now_s,
        )
        stream.receive_window = fields.integer("receive_window", 0, stream.window)
        stream.unreturned = fields.integer("unreturned", 0, stream.window - stream.receive_window)
        stream.credited_at_s = now_s - fields.number("credited_age_s")
        stream.weighed_at_s = now_s - fields.number("weighed_age_s")
        stream.got = fields.integer("got")
        stream.seen_consumed = fields.integer("seen_consumed")
        stream.local_open, stream.remote_open = fields.flag("local_open"), fields.flag("remote_open")
        stream.is_headed, stream.is_answered = fields.flag("is_headed"), fields.flag("is_answered")
        fields.done()
        if not stream.local_open and not stream.remote_open:
            raise fields.refuse("remote_open", "a stream that is over is no part of the connection")
        return stream

    @classmethod
    def over(cls, stream_id: int) -> Stream:
        """One that the connection has forgotten, and of whose bytes some are still to be delivered."""
        stream = cls(stream_id, 0, 0, 0.0)
        stream.local_open = stream.remote_open = False
        return stream


# What comes most has an __init__ written out, or is no dataclass at all: what the decorator writes is not compiled.
@dataclass(slots=True, init=False)
class HeadReceived:
    """A request (server) or a final answer (client). `fields` includes the pseudo headers."""

    stream: Stream
    fields: list[tuple[str, str]]
    ended: bool

    def __init__(self, stream: Stream, fields: list[tuple[str, str]], ended: bool) -> None:
        self.stream = stream
        self.fields = fields
        self.ended = ended


class DataReceived:
    """Payload, valid until the next `receive`; say `consumed(stream, len(data))` when it is handed on."""

    __slots__ = ("data", "ended", "stream")

    def __init__(self, stream: Stream, data: memoryview, ended: bool) -> None:
        self.stream = stream
        self.data = data
        self.ended = ended


@dataclass(slots=True)
class StreamReset:
    """The stream is gone. `by_peer` is false when this end reset it for a violation.

    `text` says which violation, or why the peer ends the whole connection, if it did say so by a GOAWAY before.
    """

    stream: Stream
    code: int
    by_peer: bool = True
    text: str = ""


@dataclass(slots=True)
class WindowOpened:
    """More may be sent: on one stream, or on all (None)."""

    stream: Stream | None


@dataclass(slots=True)
class StreamsChanged:
    """The peer's limit of streams changed, or a stream ended: `free_streams` has a new value."""


@dataclass(slots=True)
class GoAwayReceived:
    """No new streams on this connection; those the peer will not process were reset before this event."""

    last_stream_id: int
    code: int
    text: str


@dataclass(slots=True)
class ConnectionFailed:
    """The peer broke the protocol, or lost its ping. GOAWAY is in the output; write it and close."""

    code: int
    text: str


Event = (
    HeadReceived
    | DataReceived
    | StreamReset
    | WindowOpened
    | StreamsChanged
    | GoAwayReceived
    | ConnectionFailed
)


class Bucket:
    """A budget against floods: `burst` at once, then `per_s`. Time is the caller's."""

    __slots__ = ("_at_s", "_level", "burst", "per_s")

    def __init__(self, burst: float, per_s: float) -> None:
        self.burst = burst
        self.per_s = per_s
        self._level = burst
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Spend one; false when the budget is gone."""
        if self._level < 1:
            self._level = min(self.burst, self._level + (now_s - self._at_s) * self.per_s)
            self._at_s = now_s
            if self._level < 1:
                return False
        elif self._level == self.burst:
            self._at_s = now_s
        self._level -= 1
        return True

    def state(self, now_s: float) -> State:
        return {"level": self._level, "age_s": max(0.0, now_s - self._at_s)}

    def restore(self, fields: StateReader, now_s: float) -> None:
        """What is left of it; how much there may be is our own. Raises BadUnit."""
        self._level = fields.number("level", 0, self.burst)
        self._at_s = now_s - fields.number("age_s")
        fields.done()
