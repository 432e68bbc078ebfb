"""What an HTTP/2 connection reports to its owner, the state of one stream, and the connection's limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        """Since it was weighed against the others what it got, and then what all had consumed."""
        self.local_open = self.remote_open = True
        self.is_headed = False
        """The peer's first HEADERS (not interim) came; more of them are trailers."""
        self.is_answered = False
        """The final answer was sent (server) or received (client)."""
        self.owner: Any = None

    def __repr__(self) -> str:
        return f"Stream({self.id})"


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
