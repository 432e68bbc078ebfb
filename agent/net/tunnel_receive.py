"""What arrives on an HBONE connection, for its tunnels, and what they say of it in turn.

DATA goes to whom it is for in one piece, however many frames it came in. `net.tunnel_link` is the connection itself:
who may ask for a tunnel, how many there are, and how it ends.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from agent.model.outcome import Outcome
from agent.net.loop import Loop
from agent.net.stage import Stage
from agent.net.tls_link import TlsLink
from agent.net.tunnel import Tunnel
from agent.net.tunnel_waiters import TunnelWaiters
from agent.wire.h2_events import (
    ConnectionFailed,
    DataReceived,
    Event,
    HeadReceived,
    Stream,
    StreamReset,
    WindowOpened,
)
from agent.wire.h2_frames import H2StreamError, error_name
from agent.wire.h2_tunnel import H2Tunnels
from agent.wire.hbone import BadConnect, ConnectHead, parse_connect, parse_status


class TunnelReceiver:
    """Not used alone: see `tunnel_link.TunnelLink`."""

    __slots__ = ("_codec", "_is_closed", "_loop", "is_server", "rejected_requests", "stage", "tls", "waiters")

    def __init__(self, loop: Loop, tls: TlsLink, codec: H2Tunnels) -> None:
        self._loop = loop
        self._codec = codec
        self.is_server = codec.is_server
        self._is_closed = False
        self.waiters = TunnelWaiters()
        self.rejected_requests = 0
        """Requests answered or reset here because they were no legal CONNECT."""
        self.tls = tls
        """What is below: why it failed, and what is left of it."""
        self.stage = Stage(loop, codec, tls)
        """Where relays put what they read; see `Stage.forward`."""

    @abstractmethod
    def _requested(self, stream: Stream, head: ConnectHead, ended: bool) -> None:
        """The peer asks for a tunnel."""

    @abstractmethod
    def _on_available(self) -> None:
        """There may be more places for tunnels, or none any more."""

    @abstractmethod
    def _after_stream(self) -> None:
        """A stream may have ended."""

    @abstractmethod
    def _after_own_end(self) -> None:
        """The same where this end was the last to speak: no event tells of it."""

    # -- for tunnels and relays

    def consumed(self, stream: Stream, size: int) -> None:
        codec = self._codec
        if codec.consumed(stream, size):
            codec.give_credit(stream, self._loop.now())
            self.stage.flush_soon()

    def end_stream(self, stream: Stream) -> None:
        self._codec.end(stream)
        self.stage.flush_soon()
        self._loop.soon(self._after_own_end)

    def answer_tunnel(
        self, stream: Stream, status: int, headers: Iterable[tuple[str, str]], *, ended: bool
    ) -> None:
        self._codec.answer(stream, status, headers, ended=ended)
        self.stage.flush_soon()
        if ended:
            self._loop.soon(self._after_own_end)

    # -- told by the TLS link

    def on_plaintext(self, data: memoryview) -> None:
        codec = self._codec
        events = codec.receive(data, self._loop.now())
        if len(events) == 1 and type(event := events[0]) is DataReceived:
            self._deliver(event.stream, [event.data], len(event.data), event.ended)
            if event.ended:
                self._after_stream()
        elif events:
            self._on_events(events)
        if codec.out or self.tls.wants_to_write:
            self.stage.flush_soon()

    def _on_events(self, events: list[Event]) -> None:
        """DATA of one stream that arrived in several frames is delivered in one go."""
        pieces: list[memoryview] = []
        stream: Stream | None = None
        size = 0
        for event in events:
            if type(event) is DataReceived:
                if stream is not event.stream:
                    if stream is not None:
                        self._deliver(stream, pieces, size, False)
                    stream, pieces, size = event.stream, [], 0
                pieces.append(event.data)
                size += len(event.data)
                if not event.ended:
                    continue
                self._deliver(stream, pieces, size, True)
                stream = None
            else:
                if stream is not None:
                    self._deliver(stream, pieces, size, False)
                    stream = None
                self._on_event(event)
                if self._is_closed:
                    return
        if stream is not None:
            self._deliver(stream, pieces, size, False)
        self._after_stream()

    def _deliver(self, stream: Stream, pieces: list[memoryview], size: int, ended: bool) -> None:
        if stream.owner is not None:
            stream.owner.received(pieces, size, ended)
        else:
            # The request was rejected after the codec had read on: only the credit is owed.
            self.consumed(stream, size)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, HeadReceived):
            if self.is_server:
                self._on_request(event)
            elif event.stream.owner is not None:  # else it was taken back meanwhile
                self._on_answer(event)
        elif isinstance(event, WindowOpened):
            if event.stream is None:
                self.waiters.resume_all()
            elif event.stream.owner is not None and event.stream.owner.sink is not None:
                self.waiters.resume(event.stream.owner.sink)
        elif isinstance(event, StreamReset):
            if event.stream.owner is not None:
                event.stream.owner.was_reset(event.code, event.by_peer, event.text)
        elif isinstance(event, ConnectionFailed):
            self.stage.flush()
            self.tls.fail(Outcome.H2_FAILED, f"HTTP/2 {error_name(event.code)}: {event.text}")
        else:  # GoAwayReceived, StreamsChanged
            self._on_available()

    def _on_request(self, event: HeadReceived) -> None:
        stream = event.stream
        try:
            head = parse_connect(event.fields)
        except BadConnect as error:
            self.rejected_requests += 1
            self._codec.answer(stream, error.status, (), ended=True)
        except H2StreamError as error:
            self.rejected_requests += 1
            self._codec.reset(stream, error.code)
        else:
            self._requested(stream, head, event.ended)

    def _on_answer(self, event: HeadReceived) -> None:
        stream = event.stream
        tunnel: Tunnel = stream.owner
        try:
            status = parse_status(event.fields)
        except H2StreamError as error:
            self._codec.reset(stream, error.code)
            tunnel.was_reset(error.code, False, str(error))
            return
        if event.ended:
            tunnel.received([], 0, True)
        tunnel.answered(status, tuple(event.fields[1:]))

    def on_drained(self) -> None:
        self.waiters.resume_all()
