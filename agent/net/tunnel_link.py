"""One HBONE connection, either end: HTTP/2 tunnels over a TLS link, on a socket or in a tunnel of another one.

Joins `wire.h2_tunnel` to `net.tls_link`, hands each tunnel its bytes, and lets those wait that may not send.
Who may connect and what a request means is decided by `events`. Sits between `proxy.pool` or
`proxy.inbound` and the socket.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.identity.handshake import Secured, Session
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.byte_stream import ByteStream
from agent.net.loop import Loop, Timer
from agent.net.stage import Stage
from agent.net.tls_link import TlsLink
from agent.net.tunnel import Standstill, Tunnel, TunnelAsker, TunnelClientEvents, TunnelServerEvents
from agent.net.tunnel_queue import TunnelQueue
from agent.net.tunnel_waiters import TunnelWaiters
from agent.net.turns import AskTurn
from agent.wire.h2_events import (
    ConnectionFailed,
    DataReceived,
    Event,
    HeadReceived,
    Limits,
    Stream,
    StreamReset,
    WindowOpened,
)
from agent.wire.h2_frames import ErrorCode, H2StreamError, error_name
from agent.wire.h2_tunnel import H2Tunnels
from agent.wire.hbone import BadConnect, ConnectHead, parse_connect, parse_status
from agent.wire.tls_alerts import Alert

HANDSHAKE_TIMEOUT_S = 10.0
STREAMS_LIMIT = 100


class TunnelLink:
    """`session` decides which end this is. The stream belongs to the link.

    Nothing is read or sent before `start`. `limits` are what the peer is allowed.
    """

    __slots__ = (
        "_client_events",
        "_codec",
        "_events",
        "_is_closed",
        "_loop",
        "_queued",
        "_server_events",
        "_ticker",
        "backlogs",
        "is_server",
        "peer",
        "rejected_requests",
        "stage",
        "tls",
        "waiters",
    )
    __deletable__ = ("_events",)

    def __init__(
        self,
        loop: Loop,
        stream: ByteStream,
        session: Session,
        events: TunnelServerEvents | TunnelClientEvents,
        *,
        limits: Limits | None = None,
        streams_limit: int = STREAMS_LIMIT,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        ask_turn: AskTurn | None = None,
    ) -> None:
        self._loop = loop
        self._events = events
        self.is_server = session.is_server
        self._server_events: TunnelServerEvents | None = events if self.is_server else None  # type: ignore[assignment]
        self._client_events: TunnelClientEvents | None = None if self.is_server else events  # type: ignore[assignment]
        self._codec = H2Tunnels(is_server=session.is_server, now_s=loop.now(), limits=limits)
        self.backlogs = loop.backlogs
        self._codec.may_grow, self._codec.round_trip_s = self.backlogs.has_room, stream.round_trip_s
        self._is_closed = False
        self.waiters = TunnelWaiters()
        self._queued = TunnelQueue(self._codec, streams_limit)
        self._ticker: Timer | None = None
        self.peer: Identity | None = None
        self.rejected_requests = 0
        """Requests answered or reset here because they were no legal CONNECT."""
        self.tls = TlsLink(loop, stream, session, self, handshake_timeout_s, ask_turn)
        """What is below: why it failed, and what is left of it."""
        self.stage = Stage(loop, self._codec, self.tls)
        """Where relays put what they read; see `Stage.forward`."""

    def start(self, said: bytes = b"") -> None:
        """Begin with the handshake; with its first step at once where the peer's first words were read before."""
        self.tls.start(said)

    # -- what the pool asks

    @property
    def secured(self) -> Secured | None:
        """TLS facts of the connection (suite, key exchange, peer certificate); None before the handshake."""
        return self.tls.secured

    @property
    def is_usable(self) -> bool:
        """New tunnels may be opened (perhaps queued): not closed, no GOAWAY, ids left."""
        return not self._is_closed and self._codec.can_open

    @property
    def open_streams(self) -> int:
        """Tunnels under way, those that still wait to be sent included."""
        return len(self._codec.streams) + len(self._queued)

    @property
    def free_streams(self) -> int:
        """How many more tunnels fit now: by the peer's live SETTINGS and the cap given here."""
        return max(0, self._queued.limit - self.open_streams) if self.is_usable else 0

    @property
    def is_crowded(self) -> bool:
        """Tunnels that the peer's side does not read hold so much of its window that a new one might not get on."""
        return self._codec.is_crowded(self._loop.now())

    @property
    def standstill(self) -> Standstill:
        return Standstill(self._codec.unread_bytes, len(self.waiters), self._codec.send_window)

    def open(self, head: ConnectHead, asker: TunnelAsker) -> Tunnel:
        """Send a CONNECT; `asker` hears the answer, never from inside this call.

        Before the handshake is done, or while the peer's limit of streams is reached, the request waits.
        """
        tunnel = Tunnel(self, head, asker)
        self._queued.put(tunnel)
        if not self.is_usable:
            self._loop.soon(self._refuse_queued)
        elif self.tls.secured is not None:
            self._send_queued()
        return tunnel

    def go_away(self, why: str = "") -> None:
        """Take or make no new tunnels; close once those under way have ended. `why` they are reset next is told."""
        if not self._is_closed:
            self._codec.go_away(why)
            self.stage.flush_soon()
            self._loop.soon(self._close_if_finished)

    def abort(self, outcome: Outcome = Outcome.RESET, detail: str = "closed here") -> None:
        """Close at once; every tunnel fails with `outcome`. A socket that still waits for the peer goes too."""
        if not self._is_closed and self.tls.secured is not None:
            self._codec.shut(ErrorCode.NO_ERROR, detail)
            self.stage.flush()
        self._end(outcome, detail)

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

    def reset_tunnel(self, tunnel: Tunnel, code: ErrorCode) -> None:
        if tunnel.stream is None:
            self._queued.drop(tunnel)
            return
        self._codec.reset(tunnel.stream, code)
        self.stage.flush_soon()
        self._loop.soon(self._after_own_end)

    # -- told by the TLS link

    def on_secured(self, secured: Secured) -> None:
        self.peer = secured.peer
        try:
            self._events.authenticated(self, secured.peer)
        except Refusal as refusal:
            self.tls.fail(refusal.outcome, refusal.detail, Alert.ACCESS_DENIED)
            return
        if self._is_closed:
            return
        self._tick()
        self._send_queued()
        # At once: so SETTINGS and the first requests leave with the last bytes of the handshake.
        self.stage.flush()

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
            return
        except H2StreamError as error:
            self.rejected_requests += 1
            self._codec.reset(stream, error.code)
            return
        tunnel = stream.owner = Tunnel(self, head)
        tunnel.stream = stream
        if event.ended:
            tunnel.received([], 0, True)
        try:
            assert self._server_events is not None
            self._server_events.requested(self, tunnel, head)
        except Refusal as refusal:
            tunnel.refuse(refusal.outcome.status)

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

    def on_lost(self, outcome: Outcome, detail: str) -> None:
        if outcome is Outcome.OK and self._codec.streams:
            outcome, detail = Outcome.RESET, f"{detail} with tunnels open"
        self._closed(outcome, detail)

    # -- streams that end

    def _send_queued(self) -> None:
        self._queued.send()
        if self._codec.out:
            self.stage.flush_soon()

    def _refuse_queued(self) -> None:
        if not self.is_usable:
            self._queued.refuse(Outcome.UPSTREAM_REFUSED, "the connection takes no new tunnels")

    def _on_available(self) -> None:
        if self.tls.secured is None or self._is_closed:
            return
        if self.is_usable:
            self._send_queued()
        else:
            self._refuse_queued()
        if self._client_events is not None:
            self._client_events.available(self)

    def _after_stream(self) -> None:
        """A stream may have ended: its place may be used, or the connection be finished."""
        if self._is_closed:
            return
        if self._queued:
            self._on_available()
        self._close_if_finished()

    def _after_own_end(self) -> None:
        """The same where this end was the last to speak: no event tells of it."""
        if self._client_events is not None and not self._codec.streams:
            self._on_available()
        self._after_stream()

    def _close_if_finished(self) -> None:
        if self._codec.is_finished and not self._queued and not self._is_closed:
            self.stage.flush()
            self._end(Outcome.OK, "closed after GOAWAY", gracefully=True)

    # -- time and the end

    def _tick(self) -> None:
        now = self._loop.now()
        due = self._codec.tick(now)
        if due is None:
            lacking = "an answer to PING" if self._codec.is_greeted else "SETTINGS"
            self._codec.shut(ErrorCode.NO_ERROR, f"{lacking} did not come")
            self.stage.flush()
            self.tls.fail(Outcome.H2_FAILED, f"{lacking} did not come from the peer in time")
            return
        if self._codec.out:
            self.stage.flush_soon()
        self._ticker = self._loop.later(due - now, self._tick)

    def _end(self, outcome: Outcome, detail: str, *, gracefully: bool = False) -> None:
        if gracefully:
            self.tls.finish()
        else:
            self.tls.abort()
        self._closed(outcome, detail)

    def _closed(self, outcome: Outcome, detail: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        self.stage.release()
        owners = [stream.owner for stream in self._codec.streams.values() if stream.owner is not None]
        self._codec.streams.clear()
        for tunnel in owners:
            tunnel.fail(outcome, detail, self._codec.last_words)
        self._queued.refuse(outcome, detail)
        self.waiters.clear()
        events, self._server_events, self._client_events = self._events, None, None
        # What held each other: apart, all of it goes without the garbage collector.
        del self._events
        self.tls.part()
        events.closed(self, outcome, detail)
