"""One CONNECT tunnel of an HBONE connection, and what its users must offer (a relay, a pool, a server).

A tunnel answers or is answered once, then carries bytes for its sink. Bytes that come before there is a
sink wait here; the peer gets no credit for them, so they are bounded by the stream's window, and count as unread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.model.unit import State, StateReader
from agent.wire.h2_events import Stream
from agent.wire.h2_frames import ErrorCode, error_name
from agent.wire.hbone import BadConnect, ConnectHead, connect_head

if TYPE_CHECKING:
    from agent.net.tunnel_link import TunnelLink

Headers = Iterable[tuple[str, str]]
NOBODYS = ConnectHead("", "", 0)
MOST_HEADERS = 1 << 12
"""Names and values of one request, as of a link that is taken over."""
CLEAN_RESETS = (ErrorCode.NO_ERROR, ErrorCode.CANCEL)
"""Resets without a reason: after END_STREAM the rest is not wanted, before it is a cut (docs/WIRE.md#ends)."""
_RESET_CODES = {
    Outcome.RESET: ErrorCode.CONNECT_ERROR,
    Outcome.POLICY_DENIED: ErrorCode.INADEQUATE_SECURITY,
    Outcome.POLICY_CHANGED: ErrorCode.INADEQUATE_SECURITY,
    Outcome.CERTIFICATE_REVOKED: ErrorCode.INADEQUATE_SECURITY,
    Outcome.OVERLOADED: ErrorCode.ENHANCE_YOUR_CALM,
}
_REASONS: dict[int, str] = {
    ErrorCode.INADEQUATE_SECURITY: "policy or a certificate forbids it now, ",
    ErrorCode.ENHANCE_YOUR_CALM: "too much is left unread there, ",
}


def reset_code(outcome: Outcome) -> ErrorCode:
    """What RST_STREAM says of a connection that ends here in this way. None that any peer takes for an orderly end."""
    return _RESET_CODES.get(outcome, ErrorCode.INTERNAL_ERROR)


def cut_by_peer(who: str, code: int, said: str = "") -> Refusal:
    """What RST_STREAM from the proxy of `who` (client or server) means: `reset_code`, read from the other end."""
    name = error_name(code)
    if code == ErrorCode.CONNECT_ERROR:
        return Refusal(Outcome.RESET, f"the {who} reset the connection, says its proxy ({name}){said}")
    if code in CLEAN_RESETS:
        return Refusal(
            Outcome.RESET, f"the {who}'s proxy ended the connection and does not say why ({name}){said}"
        )
    why = _REASONS.get(code, "")
    return Refusal(Outcome.CUT_BY_PEER, f"the {who}'s proxy ended the connection ({why}{name}){said}")


class Standstill(NamedTuple):
    """How far the tunnels of one connection are held up by applications that do not read, at either end."""

    unread_bytes: int
    """What the peer has sent and applications here have not taken yet."""
    waiting_tunnels: int
    """Tunnels that have something to send and may not."""
    window_left_bytes: int
    """What the peer still lets be sent, by all of them together."""


class TunnelOwner(Protocol):
    """Whose tunnel it is while it has no sink."""

    def gone(self, tunnel: Tunnel) -> None:
        """It ended before it was answered, or before it got a sink: `tunnel.failure` says why, None: cancelled."""


class TunnelAsker(TunnelOwner, Protocol):
    """Who asked for a tunnel. One of the two is called, once, unless the tunnel is reset here first."""

    def answered(self, tunnel: Tunnel, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """The peer's final answer to CONNECT."""


class TunnelSink(Protocol):
    def deliver(self, pieces: list[memoryview], size: int, ended: bool) -> None:
        """Payload, valid during the call, `size` bytes in all; `ended`: nothing follows."""

    def resume(self) -> None:
        """There may be room to send again."""

    def reset(self, why: Refusal, is_clean: bool) -> None:
        """The stream is gone: reset by the peer, refused by this end, or lost with its connection.

        `is_clean`: by a peer that gives no reason (CLEAN_RESETS).
        """


class TunnelServerEvents(Protocol):
    """What the accepting end is told. `authenticated` may raise Refusal: the link is closed with it."""

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None: ...

    def requested(self, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        """A legal CONNECT. Answer with `tunnel.accept()` or `.refuse()`, now or later; may raise Refusal."""

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None: ...


class TunnelClientEvents(Protocol):
    """What the dialling end is told."""

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None: ...

    def available(self, link: TunnelLink) -> None:
        """`free_streams` or `is_usable` may have changed."""

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None: ...


class Tunnel:
    """Made by a TunnelLink: from `open()` (client, with an asker), or with a request (server)."""

    __slots__ = (
        "_early",
        "_early_end",
        "asker",
        "failure",
        "head",
        "is_gone",
        "is_unseen",
        "link",
        "owner",
        "sink",
        "stream",
    )

    def __init__(self, link: TunnelLink, head: ConnectHead, asker: TunnelAsker | None = None) -> None:
        self.link = link
        self.head = head
        self.asker = asker
        """Hears the answer (client)."""
        self.owner: TunnelOwner | None = None
        """Hears when the peer takes its request back before there is a sink (server)."""
        self.stream: Stream | None = None
        self.sink: TunnelSink | None = None
        self.failure: Refusal | None = None
        self.is_gone = False
        self.is_unseen = False
        """It ended, and the peer has not looked at it: another connection may carry it (RFC 9113, 8.7)."""
        self._early: list[bytes] | None = None
        self._early_end = False

    @property
    def is_server(self) -> bool:
        return self.link.is_server

    def accept(self, headers: Headers = ()) -> None:
        """Answer 200 (server). Bytes flow once a relay is attached."""
        self._answer(200, headers, ended=False)

    def refuse(self, status: int, headers: Headers = ()) -> None:
        """Answer with a status other than 200 (server), and end the tunnel."""
        if self.is_gone:
            return
        self._answer(status, headers, ended=True)
        self.is_gone = True
        self._drop_early()
        self._leave_stream()

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """End the tunnel now, in both directions. Nobody is called back."""
        self.asker = self.owner = self.sink = None
        if not self.is_gone:
            self.is_gone = True
            self._drop_early()
            self.link.reset_tunnel(self, code)
        self._leave_stream()

    @property
    def group(self) -> object:
        """The connection that its early bytes came over."""
        return self.link

    def abort(self, outcome: Outcome, detail: str) -> None:
        """End it while its bytes wait for a sink; its owner hears of it."""
        if not self.is_gone:
            self.link.reset_tunnel(self, reset_code(outcome))
            self._end(Refusal(outcome, detail), is_clean=False)

    def _answer(self, status: int, headers: Headers, *, ended: bool) -> None:
        if self.is_gone or self.stream is None:
            return
        self.link.answer_tunnel(self.stream, status, headers, ended=ended)

    # -- going on elsewhere

    def freeze(self) -> None:
        """With its link: nothing is done to it any more, and nobody hears of it."""
        self.is_gone = True
        size = sum(map(len, self._early or ()))
        if size:
            self.link.backlogs.release(self, size)
        self.asker = self.owner = self.sink = None

    def count_early(self) -> None:
        """What came early is unread here from now on."""
        if self._early:
            self.link.backlogs.hold(self, sum(map(len, self._early)))

    def state(self) -> State:
        """`stream`: None while it waits to be sent."""
        return {
            "stream": None if self.stream is None else self.stream.id,
            "authority": self.head.authority,
            "headers": [text for header in self.head.headers for text in header],
            "early": b"".join(self._early or ()),
            "early_end": self._early_end,
        }

    @classmethod
    def from_state(cls, link: TunnelLink, fields: StateReader) -> Tunnel:
        """Belongs to its stream, and to nobody else yet. Raises BadUnit."""
        texts = fields.texts("headers", MOST_HEADERS)
        try:
            head = connect_head(fields.text("authority"), zip(texts[::2], texts[1::2], strict=True))
        except (BadConnect, ValueError) as error:
            raise fields.refuse("authority", str(error)) from None
        tunnel = cls(link, head)
        if fields.has("stream"):
            stream = tunnel.stream = link.stream(fields.integer("stream"))
            if stream is None or stream.owner is not None:
                raise fields.refuse("stream", "it is not there, or not its own")
            stream.owner = tunnel
        early = fields.blob("early")
        tunnel._early = [early] if early else None
        tunnel._early_end = fields.flag("early_end")
        fields.done()
        return tunnel

    @classmethod
    def over(cls, link: TunnelLink, stream_id: int) -> Tunnel:
        """One whose both directions have ended, and of whose bytes some are still to be delivered."""
        tunnel = cls(link, NOBODYS)
        tunnel.stream = Stream.over(stream_id)
        tunnel.is_gone = True
        return tunnel

    @property
    def is_free(self) -> bool:
        """Nothing carries its bytes, and none wait for that."""
        return self.sink is None and not self._early and not self._early_end

    # -- for the relay

    def attach(self, sink: TunnelSink) -> None:
        """Deliver to `sink` from now on, beginning with what came early."""
        self.sink = sink
        self.owner = None
        early, size = self._take_early()
        ended, self._early_end = self._early_end, False
        if early or ended:
            sink.deliver([memoryview(piece) for piece in early], size, ended)
        if self.is_gone and self.sink is not None:
            sink.reset(self.failure or Refusal(Outcome.CUT_BY_PEER), is_clean=self.failure is None)

    # -- for the link

    def received(self, pieces: list[memoryview], size: int, ended: bool) -> None:
        if self.sink is not None:
            self.sink.deliver(pieces, size, ended)
        elif self.is_gone:
            self._consume(size)
        else:
            if self._early is None:
                self._early = []
            self._early.extend(bytes(piece) for piece in pieces)
            self._early_end = ended
            if size:
                self.link.backlogs.hold(self, size)

    def answered(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        asker, self.asker = self.asker, None
        if asker is not None:
            asker.answered(self, status, headers)

    def was_reset(self, code: int, by_peer: bool, text: str) -> None:
        self.is_unseen = by_peer and code == ErrorCode.REFUSED_STREAM
        said = f"; it said: {text}" if text else ""
        if not by_peer:
            why = Refusal(Outcome.RESET, f"the tunnel was reset here, {error_name(code)}: {text}")
        elif self.asker is not None:
            why = Refusal(
                Outcome.UPSTREAM_REFUSED, f"the tunnel was reset by the peer: {error_name(code)}{said}"
            )
        else:
            why = cut_by_peer("client" if self.is_server else "server", code, said)
        self._end(why, by_peer and code in CLEAN_RESETS)

    def fail(self, outcome: Outcome, detail: str, said: str = "") -> None:
        """Lost with its connection, or never sent; `said` is what the peer gave as its reason."""
        self.is_unseen = self.stream is None
        if not self.is_unseen:
            detail = f"the HBONE connection ended: {detail}"
        self._end(Refusal(outcome, f"{detail}; the peer said: {said}" if said else detail), is_clean=False)

    def _end(self, why: Refusal, is_clean: bool) -> None:
        if self.is_gone:
            return
        self.is_gone = True
        if not is_clean or self.asker is not None:
            self.failure = why
        if self.sink is not None:
            self.sink.reset(why, is_clean)
            return
        self._drop_early()
        self._leave_stream()
        waiting = self.asker or self.owner
        self.asker = self.owner = None
        if waiting is not None:
            waiting.gone(self)

    def _leave_stream(self) -> None:
        """What still comes on it is dropped with its credit; apart, both go without the garbage collector."""
        if self.stream is not None:
            self.stream.owner = None

    def _drop_early(self) -> None:
        self._consume(self._take_early()[1])

    def _take_early(self) -> tuple[list[bytes], int]:
        """What came early, with its size, once."""
        early, self._early = self._early or [], None
        size = sum(map(len, early))
        if size:
            self.link.backlogs.release(self, size)
        return early, size

    def _consume(self, size: int) -> None:
        if size and self.stream is not None:
            self.link.consumed(self.stream, size)
