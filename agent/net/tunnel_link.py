"""One HBONE connection, either end: HTTP/2 tunnels over a TLS link, on a socket or in a tunnel of another one.

Joins `wire.h2_tunnel` to `net.tls_link`, hands each tunnel its bytes, and lets those wait that may not send.
Who may connect and what a request means is decided by `events`. Sits between `proxy.pool` or
`proxy.inbound` and the socket.
"""

from __future__ import annotations

import socket

from agent.identity.handshake import Secured, Session, other_group
from agent.identity.presented import Check
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.model.unit import PlainValue, State, StateReader
from agent.net.byte_stream import ByteStream, SocketStream
from agent.net.loop import Loop, Timer
from agent.net.tls_handshake import HandshakingLink
from agent.net.tls_link import TlsLink
from agent.net.tunnel import Standstill, Tunnel, TunnelAsker, TunnelClientEvents, TunnelServerEvents
from agent.net.tunnel_queue import MOST_QUEUED, TunnelQueue
from agent.net.tunnel_receive import TunnelReceiver
from agent.net.turns import AskTurn
from agent.wire.h2_events import Limits, Stream
from agent.wire.h2_frames import ErrorCode
from agent.wire.h2_tunnel import H2Tunnels
from agent.wire.hbone import ConnectHead
from agent.wire.tls_alerts import Alert

HANDSHAKE_TIMEOUT_S = 10.0
STREAMS_LIMIT = 100


class TunnelLink(TunnelReceiver):
    """A connection with its end of the tunnels in it. Nothing is read or sent before `start`.

    `fresh` makes one that begins, `from_state` one that was under way elsewhere.
    """

    __slots__ = ("_client_events", "_events", "_queued", "_server_events", "_ticker", "backlogs", "peer")
    __deletable__ = ("_events",)

    def __init__(
        self,
        loop: Loop,
        tls: TlsLink,
        codec: H2Tunnels,
        events: TunnelServerEvents | TunnelClientEvents,
        streams_limit: int,
    ) -> None:
        super().__init__(loop, tls, codec)
        tls.user = self
        self._events = events
        self._server_events: TunnelServerEvents | None = events if self.is_server else None  # type: ignore[assignment]
        self._client_events: TunnelClientEvents | None = None if self.is_server else events  # type: ignore[assignment]
        self.backlogs = loop.backlogs
        codec.may_grow, codec.round_trip_s = self.backlogs.has_room, tls.round_trip_s
        self._queued = TunnelQueue(codec, streams_limit)
        self._ticker: Timer | None = None
        self.peer: Identity | None = None if tls.secured is None else tls.secured.peer

    @classmethod
    def fresh(
        cls,
        loop: Loop,
        stream: ByteStream,
        session: Session,
        events: TunnelServerEvents | TunnelClientEvents,
        *,
        limits: Limits | None = None,
        streams_limit: int = STREAMS_LIMIT,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        ask_turn: AskTurn | None = None,
    ) -> TunnelLink:
        """One with its handshake before it: `session` decides which end it is, `limits` are what the peer is allowed.

        The stream belongs to the link.
        """
        tls = HandshakingLink(loop, stream, session, handshake_timeout_s, ask_turn)
        codec = H2Tunnels(is_server=session.is_server, now_s=loop.now(), limits=limits)
        return cls(loop, tls, codec, events, streams_limit)

    def start(self, said: bytes = b"") -> None:
        """Begin with the handshake, and with its first step at once where the peer's first words were read before;
        or go on where it was done elsewhere."""
        is_under_way = self.tls.secured is not None
        self.tls.start(said)
        if is_under_way:
            for tunnel in self.tunnels():
                tunnel.count_early()
            self._ticker = self._loop.later(0.0, self._tick)
            # What was due where it comes from.
            self._loop.soon(self._after_own_end)

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

    @property
    def most_unread_bytes(self) -> int:
        """What one tunnel can have left unread: no more was the peer let send."""
        return self._codec.limits.stream_window_bytes

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

    def _requested(self, stream: Stream, head: ConnectHead, ended: bool) -> None:
        tunnel = stream.owner = Tunnel(self, head)
        tunnel.stream = stream
        if ended:
            tunnel.received([], 0, True)
        try:
            assert self._server_events is not None
            self._server_events.requested(self, tunnel, head)
        except Refusal as refusal:
            tunnel.refuse(refusal.outcome.status)

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

    # -- going on elsewhere

    @property
    def stays(self) -> str:
        """Why it can only go on here; empty: it may be frozen."""
        return "the connection has ended" if self._is_closed else self.tls.stays

    def tunnels(self) -> list[Tunnel]:
        """In an order that `from_state` keeps: those that peer and codec know, then those that wait to be sent.

        Relays have more of them: where both directions have ended, and bytes wait for the application.
        """
        return [
            *(s.owner for s in self._codec.streams.values() if s.owner is not None),
            *self._queued.tunnels(),
        ]

    def freeze(self) -> bool:
        """Stop without an end, and without a word to events, tunnels or relays; the last are frozen by themselves.

        What was to be said in this turn is sealed before. It goes on from `state` and `sock`, elsewhere, or here by
        another link. Where it `stays`, never. False: it has ended by that, and all were told.
        """
        self.stage.flush()
        if self._is_closed:
            return False
        self._is_closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        self.tls.freeze()
        self.tls.part()
        self.waiters.clear()
        for tunnel in self.tunnels():
            tunnel.freeze()
        self._server_events = self._client_events = None
        del self._events
        return True

    @property
    def sock(self) -> socket.socket:
        return self.tls.sock

    def state(self) -> State:
        return {
            "tls": self.tls.state(),
            "http2": self._codec.state(self._loop.now()),
            "tunnels": [tunnel.state() for tunnel in self.tunnels()],
        }

    @classmethod
    def from_state(
        cls,
        loop: Loop,
        value: PlainValue,
        sock: socket.socket,
        events: TunnelServerEvents | TunnelClientEvents,
        *,
        is_server: bool,
        check: Check,
        wants_chain: bool,
        group: str,
        limits: Limits | None = None,
        streams_limit: int = STREAMS_LIMIT,
    ) -> TunnelLink:
        """As `state` was, not started; its `tunnels` have no owners. `check` says who may be the peer, as at a
        handshake; with `wants_chain` its chain must be told, by which it can be revoked; `group` is the one key
        exchange that it may have come from, empty: any; `limits` are our own, for what the peer was not told. Raises
        BadUnit; the socket stays the caller's then."""
        fields = StateReader("a link", value)
        tls = TlsLink.from_state(loop, SocketStream(loop, sock), fields.value("tls"))
        secured = tls.secured
        assert secured is not None, "it has a state"
        if reason := check(secured.peer):
            raise fields.refuse("tls", reason)
        if wants_chain and not secured.chain:
            raise fields.refuse("tls", "the peer's chain is not told, and so it could not be revoked")
        if reason := other_group(group, secured.group):
            raise fields.refuse("tls", reason)
        codec = H2Tunnels.from_state(
            fields.value("http2"), is_server=is_server, now_s=loop.now(), limits=limits
        )
        made = cls(loop, tls, codec, events, streams_limit)
        for each in fields.each("tunnels", len(codec.streams) + MOST_QUEUED):
            tunnel = Tunnel.from_state(made, each)
            if tunnel.stream is None:
                made._queued.put(tunnel)
        fields.done()
        sock.setblocking(False)
        return made

    def stream(self, stream_id: int) -> Stream | None:
        """None where it is over."""
        return self._codec.streams.get(stream_id)

    def tunnel_on(self, stream_id: int) -> Tunnel:
        """Of a link that was taken over: the tunnel on a stream, also on one that is over."""
        stream = self.stream(stream_id)
        owner: Tunnel | None = None if stream is None else stream.owner
        return owner or Tunnel.over(self, stream_id)

    def let_go(self) -> None:
        """It goes on elsewhere. Whatever else was done to the socket would be done to it there."""
        self.sock.close()
        for stream in self._codec.streams.values():  # which its tunnel holds: apart, both go
            stream.owner = None
