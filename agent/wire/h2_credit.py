"""The windows of an HTTP/2 connection, both ways: what may be sent, and what the peer may send.

Of the connection and of each stream. What the peer may send follows how fast it is read (`h2_windows`); what is sent
leaves some of the peer's window for all to the other streams. Part of `h2_tunnel.H2Tunnels`. RFC 9113 5.2 and 6.9.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.model.unit import State, StateReader
from agent.wire import h2_frames as frames
from agent.wire.h2_events import Limits, Stream
from agent.wire.h2_windows import FAST_S, SHARED_S, STALE_S, WEIGH_S, paces, window_change

MAX_STREAMS = 1 << 14
"""No connection that goes on here has more of them."""
CROWDED_S = 0.1
"""Window that is taken for less than this is of streams that move, not of streams that are not read."""


class H2Credit:
    """The streams and their windows. Not used alone: see `h2_tunnel.H2Tunnels`."""

    def __init__(self, *, limits: Limits, now_s: float) -> None:
        self.limits = limits
        self._now_s = now_s
        self._data_left = 0
        """How much of the DATA frame that is arriving has not."""
        self.updates_earned = 0
        """WINDOW_UPDATEs that a peer may send for the DATA it got."""
        self.out = bytearray()
        """Control frames to send, in order, before any DATA staged later. Take with `data_to_send`."""
        self.streams: dict[int, Stream] = {}
        self.send_window = frames.DEFAULT_WINDOW
        self.receive_window = limits.connection_window_bytes
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.peer_window = frames.DEFAULT_WINDOW
        self.peer_connection_window = frames.DEFAULT_WINDOW
        """The most that the peer ever let wait of all streams together."""
        self.may_grow: Callable[[], bool] = lambda: True
        """Asked before a stream's window grows: whether memory lasts."""
        self.round_trip_s: Callable[[], float] = lambda: FAST_S
        """How long the path to the peer is: a window that holds more than is on its way only makes others wait."""
        self.peer_streams: int | None = None
        """The peer's MAX_CONCURRENT_STREAMS, None while it set no limit."""
        self._first_window = limits.first_window_bytes
        self._grown = 0
        """By how much the windows of all streams together exceed their first one."""
        self._granted = limits.connection_window_bytes
        self._consumed = 0
        self._shared_until_s = 0.0
        """Until then what one stream has in a queue keeps others waiting, which receive little."""
        self._roomy_at_s = now_s
        """When the peer last gave back half of its window for all."""
        self._credit_below = limits.connection_window_bytes - limits.connection_window_bytes // 8
        self._weigh_peer_windows()

    def _add_stream(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, self.peer_window, self._first_window, self._now_s)
        self.streams[stream_id] = stream
        return stream

    def _forget(self, stream: Stream) -> None:
        stream.local_open = stream.remote_open = False
        self._grown -= stream.window - self._first_window
        del self.streams[stream.id]

    # -- sending

    def sendable(self, stream: Stream) -> int:
        """How many bytes the next DATA frame of this stream may carry; 0 or less: wait for WindowOpened."""
        if not stream.local_open:
            return 0
        left = self.send_window
        size = min(stream.send_window, left, self.peer_frame_bytes)
        if left < self._scarce_below and len(self.streams) > 1:
            held = self.peer_window - stream.send_window
            if held > 0 and held >= left - self._crowded_below:
                return min(size, self._peer_half - held)
        return size

    def is_crowded(self, now_s: float) -> bool:
        """Half of what the peer lets wait is taken, and stays so: a stream opened now may come to wait for others.

        What moves takes as much for moments. Credit alone is no sign of it, as one of many may still be read.
        """
        return self.send_window < self._crowded_below and now_s - self._roomy_at_s >= CROWDED_S

    def _weigh_peer_windows(self) -> None:
        """What a stream may take of the peer's window for all, after one of the two was announced.

        Peers give credit back when half of a window was consumed, at the latest. So a stream that has half of its
        own outstanding is not read as fast as it sends, and it loses nothing by waiting for its own credit; one with
        less must go on, as its credit may come only then. And once half of the connection's window is held by
        streams that are not read, the others may never make up the half that brings credit for all. So a stream has
        half of its window, or as much as would be left of the other half: one or two have all they can use, many
        leave some to the rest (dynamic thresholds of shared memory switches, Choudhury and Hahne 1998).
        """
        self._peer_half = (self.peer_window + 1) // 2
        self._crowded_below = self.peer_connection_window // 2
        self._scarce_below = self._crowded_below + self.peer_window

    # -- receiving

    @property
    def unread_bytes(self) -> int:
        """Payload that was received and is not consumed yet, that of streams which are over included."""
        return self._granted - self.receive_window - self._data_left - self._consumed

    def consumed(self, stream: Stream, size: int) -> bool:
        """`size` bytes of payload were handed on. True: a quarter of the window was, so `give_credit` is due."""
        self._consumed += size
        stream.unreturned += size
        return stream.unreturned >= stream.quarter

    def give_credit(self, stream: Stream, now_s: float) -> None:
        """Let the peer send as much again as was consumed: more where the window grows, less where it shrinks."""
        size, stream.unreturned = stream.unreturned, 0
        if not stream.remote_open:
            return
        stream.got += size
        if now_s - stream.weighed_at_s >= WEIGH_S:
            self._weigh(now_s)
        change = window_change(
            stream.window,
            now_s - stream.credited_at_s,
            first=self._first_window,
            most=self.limits.stream_window_bytes,
            room=self.limits.connection_window_bytes - self._grown,
            pace=paces(self.round_trip_s(), is_shared=now_s < self._shared_until_s),
        )
        if change > 0 and not self.may_grow():
            change = 0
        change = max(change, -size)
        stream.credited_at_s = now_s
        stream.window += change
        stream.quarter = stream.window >> 2
        self._grown += change
        size += change
        if size:
            self.out += frames.window_update(stream.id, size)
            stream.receive_window += size

    def _weigh(self, now_s: float) -> None:
        """Streams of one kind wait for each other anyway, and small windows make them dearer; not so those that
        receive much, however many they are, and one that asks for little."""
        most = least = 0
        for stream in self.streams.values():
            received = stream.got + stream.unreturned - stream.seen_consumed
            if received > 0 and now_s - stream.weighed_at_s < STALE_S:
                most, least = max(most, received), min(least or received, received)
            stream.weighed_at_s, stream.got, stream.seen_consumed = now_s, 0, stream.unreturned
        if least < most // 4:
            self._shared_until_s = now_s + SHARED_S

    def _credit_connection(self) -> None:
        """The window of all streams together is given back on receipt: streams that nobody reads take none of it."""
        size = self.limits.connection_window_bytes - self.receive_window
        self.out += frames.window_update(0, size)
        self._granted += size
        self.receive_window += size

    # -- going on elsewhere

    def state(self, now_s: float) -> State:
        """Plain values for `restore`; times as what has passed or is left of them."""
        return {
            "limits": self.limits.plain(),
            "data_left": self._data_left,
            "updates_earned": self.updates_earned,
            "streams": [stream.state(now_s) for stream in self.streams.values()],
            "send_window": self.send_window,
            "receive_window": self.receive_window,
            "peer_frame_bytes": self.peer_frame_bytes,
            "peer_window": self.peer_window,
            "peer_connection_window": self.peer_connection_window,
            "peer_streams": self.peer_streams,
            "first_window": self._first_window,
            "granted": self._granted,
            "consumed": self._consumed,
            "shared_left_s": max(0.0, self._shared_until_s - now_s),
            "roomy_age_s": now_s - self._roomy_at_s,
        }

    def restore(self, fields: StateReader) -> None:
        """Be as `state` says. `limits` were read before. Raises BadUnit; of no use then."""
        limits, now_s, most = self.limits, self._now_s, frames.MAX_WINDOW
        self.updates_earned = fields.integer("updates_earned")
        self.send_window = fields.integer("send_window", -most, most)
        self.receive_window = fields.integer("receive_window", 0, limits.connection_window_bytes)
        self.peer_frame_bytes = fields.integer(
            "peer_frame_bytes", frames.DEFAULT_FRAME_BYTES, frames.LARGEST_FRAME_BYTES
        )
        self.peer_window = fields.integer("peer_window", 0, most)
        self.peer_connection_window = fields.integer("peer_connection_window", 0, most)
        if fields.has("peer_streams"):
            self.peer_streams = fields.integer("peer_streams", 0, (1 << 32) - 1)
        self._first_window = fields.integer("first_window", 0, limits.stream_window_bytes)
        self._granted, self._consumed = fields.integer("granted"), fields.integer("consumed")
        self._shared_until_s = now_s + fields.number("shared_left_s", 0, SHARED_S)
        self._roomy_at_s = now_s - fields.number("roomy_age_s")
        self._data_left = fields.integer("data_left", 0, limits.frame_bytes)
        if self.unread_bytes < 0:
            raise fields.refuse("consumed", "more than was received")
        for each in fields.each("streams", limits.peer_streams or MAX_STREAMS):
            stream = Stream.from_state(each, limits.stream_window_bytes, now_s)
            self.streams[stream.id] = stream
            self._grown += stream.window - self._first_window
        self._weigh_peer_windows()
