"""One TLS connection over a byte stream: the handshake, then records in and out, on the nested epoll.

Plaintext arrives as one view per read; what is sent is sealed and written once per turn. Ciphertext the
stream does not take waits here, and `is_congested` tells the readers upstream to pause. Knows nothing of
HTTP/2; its user is told of everything through `TlsUser`.
"""

from __future__ import annotations

import os

from agent.identity.faults import Fault
from agent.identity.handshake import HandshakeError, Secured, Session
from agent.model.outcome import Outcome
from agent.net.buffers import RECEIVE_BYTES
from agent.net.byte_stream import ByteStream, Parted
from agent.net.loop import EDGES, ENDED, INBOUND_EDGES, READABLE, WRITABLE, Loop, Timer
from agent.net.sockets import was_destroyed
from agent.net.tls_user import NOBODY, TlsUser
from agent.net.turns import AskTurn
from agent.wire.tls_alerts import Alert
from agent.wire.tls_records import TlsError, TlsRecords

HIGH_BYTES = 1 << 20
"""Unsent ciphertext above which readers pause."""
# Readers obey HIGH_BYTES, so only answers to a flood of control frames can grow so far.
LIMIT_BYTES = 4 * HIGH_BYTES
_HANDSHAKE_READ_BYTES = 1 << 14


class TlsLink:
    """`session` decides the end. The stream belongs to the link.

    Nothing is read or sent before `start`. Each step of the handshake is taken when `ask_turn` says so (None: at once).
    """

    __slots__ = (
        "_ask_turn",
        "_buffers",
        "_ended",
        "_handshake_timeout_s",
        "_held",
        "_held_bytes",
        "_is_heard_out",
        "_is_over",
        "_is_room_watched",
        "_loop",
        "_records",
        "_recv_into",
        "_secured",
        "_send",
        "_session",
        "_stream",
        "_timer",
        "_unsent",
        "_user",
        "fault",
        "is_congested",
        "parted",
    )

    def __init__(
        self,
        loop: Loop,
        stream: ByteStream,
        session: Session,
        user: TlsUser,
        handshake_timeout_s: float,
        ask_turn: AskTurn | None = None,
    ) -> None:
        self._loop = loop
        self._ask_turn = ask_turn
        self._buffers = stream.buffers
        self._stream = stream
        self._recv_into = stream.recv_into
        self._send = stream.send
        self._session: Session | None = session
        self._user: TlsUser = user
        self._secured: Secured | None = None
        self._records: TlsRecords | None = None
        self._held = b""
        self._unsent = bytearray()
        self._held_bytes = 0
        """How much of what is unsent is counted as unread."""
        self._ended = self._is_over = self._is_heard_out = self._is_room_watched = False
        self.is_congested = False
        self.fault: Fault | None = None
        """Why there is no connection, where the handshake is what failed; a peer may refuse it after its end."""
        self._handshake_timeout_s = handshake_timeout_s
        self._timer: Timer | None = None
        self.parted: Parted | None = None
        """What is left after an end in order, until the peer has read it."""

    def start(self, said: bytes = b"") -> None:
        """`said`: the peer's first words, read before; this is the turn of the step they make."""
        self._timer = self._loop.later(self._handshake_timeout_s, self._on_handshake_timeout)
        self._stream.watch(self._on_ready, self._on_crash, INBOUND_EDGES)
        session = self._session
        if said and session is not None:
            try:
                self._hear(session, said)
            except Exception as error:
                self._on_crash(error)
                raise
        elif session is not None and not session.is_server:
            self._send_unsent()

    @property
    def secured(self) -> Secured | None:
        """The handshake's result, None before it is done."""
        return self._secured

    @property
    def is_secured(self) -> bool:
        """Bytes can be sent: the handshake is done and the link not closed."""
        return self._records is not None

    @property
    def wants_to_write(self) -> bool:
        """TLS itself has something to send (an answer to KeyUpdate)."""
        return self._records is not None and self._records.wants_to_write

    # -- events

    def _on_ready(self, mask: int) -> None:
        if mask & ENDED:
            self._ended = True
        if mask & WRITABLE and (self._unsent or self._session is not None):
            self._send_unsent()
        if mask & READABLE:
            if self._records is not None:
                self._read()
            elif self._ask_turn is not None:
                self._ask_turn(self._shake_in_turn)
            else:
                self._shake()

    def _read(self) -> None:
        """One batch: read up to 17 records, open those that are whole, hand on their plaintext."""
        records = self._records
        if records is None or self._is_over:
            return
        buffer = self._buffers.received
        held = len(self._held)
        if held:
            buffer[:held] = self._held
        try:
            size = self._recv_into(buffer[held : held + RECEIVE_BYTES])
        except BlockingIOError:
            return
        except OSError as error:
            self._is_heard_out = True
            outcome = Outcome.POD_REMOVED if was_destroyed(error.errno or 0) else Outcome.RESET
            self.fail(outcome, f"the connection broke: {_said(error)}", None)
            return
        if not size:
            self._on_end()
            return
        self._take(records, buffer, held + size)
        if (size == RECEIVE_BYTES or self._ended) and not self._is_over:
            self._loop.soon(self._read)

    def _take(self, records: TlsRecords, buffer: memoryview, total: int) -> None:
        opened = self._buffers.opened
        try:
            used, made = records.open(buffer, total, opened)
        except TlsError as error:
            self._on_tls_error(error)
            return
        self._held = bytes(buffer[used:total]) if used < total else b""
        if made or records.wants_to_write:
            self._user.on_plaintext(opened[:made])
        if records.closed and not self._is_over:
            self.fail(Outcome.OK, "the peer closed the connection")

    def _on_end(self) -> None:
        self._is_heard_out = True
        self.fail(Outcome.RESET if self._held else Outcome.OK, "the peer closed the connection")

    def _on_tls_error(self, error: TlsError) -> None:
        self.fault = Fault.PROTOCOL if error.alert is not None else Fault.REFUSED_BY_PEER
        self.fail(Outcome.TLS_FAILED, str(error), error.alert)

    def _on_crash(self, error: BaseException) -> None:
        self.abort()
        self._user.on_lost(Outcome.INTERNAL, f"{type(error).__name__}: {error}")

    # -- the handshake

    def _shake(self) -> bool:
        """Take a step with what has arrived; whether that was work."""
        session = self._session
        if session is None or self._is_over:
            return False
        try:
            data = self._stream.recv(_HANDSHAKE_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self.fail(Outcome.TLS_FAILED, f"TLS handshake: {_said(error)}")
            return True
        if not data:
            self.fault = Fault.CLOSED
            self.fail(Outcome.TLS_FAILED, "TLS handshake: the peer closed the connection")
            return True
        self._hear(session, data)
        return True

    def _hear(self, session: Session, data: bytes) -> None:
        try:
            session.feed(data)
        except HandshakeError as error:
            self._unsent += session.outgoing()
            self.fault = error.fault
            self.fail(error.outcome, error.detail)
            return
        self._unsent += session.outgoing()
        if session.done:
            self._secure(session.secured, session.is_server)
            # Behind what the user has to say in this turn: one flight.
            self._loop.flush_at_end(self._send_unsent)
        else:
            self._send_unsent()
        # A short read has emptied the socket: what follows is a new edge. Not so the end, once announced.
        if (len(data) == _HANDSHAKE_READ_BYTES or self._ended) and not self._is_over:
            self._go_on()

    def _shake_in_turn(self) -> bool:
        try:
            return self._shake()
        except Exception as error:
            self._on_crash(error)
            raise

    def _go_on(self) -> None:
        if self._records is not None:
            self._loop.soon(self._read)
        elif self._ask_turn is not None:
            self._ask_turn(self._shake_in_turn)
        else:
            self._loop.soon(self._shake)

    def _secure(self, secured: Secured, is_server: bool) -> None:
        self._session = self._ask_turn = None
        self._secured = secured
        records = self._records = TlsRecords(secured.state)
        self._stop_timer()
        self._user.on_secured(secured)
        left = secured.leftover
        if left and not self._is_over:
            self._buffers.received[: len(left)] = left
            self._take(records, self._buffers.received, len(left))
        elif is_server:
            # A client's first words come right behind its handshake: the answers to both leave together.
            self._read()

    def _on_handshake_timeout(self) -> None:
        self._timer = None
        self.fault = Fault.TIMEOUT
        self.fail(Outcome.TLS_FAILED, "the TLS handshake was not done in time")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- sending

    def seal_and_send(self, stage: memoryview, size: int) -> None:
        """Send the first `size` bytes of a stage (0: only what TLS itself has to say)."""
        records = self._records
        if records is None or self._is_over:
            return
        sealed = self._buffers.sealed
        made = records.seal(stage, size, sealed)
        sent = 0
        if not self._unsent:
            try:
                sent = self._send(sealed[:made])
            except BlockingIOError:
                pass
            except OSError:
                self._on_broken()
                return
            if sent < made:
                self._watch_room()
        if sent < made:
            self._unsent += sealed[sent:made]
            self._count()
            self._on_growth()

    @property
    def group(self) -> object:
        """The connection itself, with which the backlogs of its tunnels are put together."""
        return self._user

    def _count(self) -> None:
        """Bring what is counted as unread up to what is unsent."""
        more = len(self._unsent) - self._held_bytes
        self._held_bytes += more
        if more > 0:
            self._loop.backlogs.hold(self, more)
        elif more:
            self._loop.backlogs.release(self, -more)

    def _on_broken(self) -> None:
        """Nothing can be sent any more. What the peer said before it left (an alert) is still to be read."""
        self._unsent.clear()
        self._count()
        self._ended = True
        self._go_on()

    def _on_growth(self) -> None:
        size = len(self._unsent)
        if size > LIMIT_BYTES:
            self.abort()
            self._user.on_lost(Outcome.H2_FAILED, "the peer asks for answers and does not read them")
        elif size > HIGH_BYTES:
            self.is_congested = True

    def _send_unsent(self) -> None:
        session = self._session
        if session is not None:
            self._unsent += session.outgoing()
        while self._unsent and not self._is_over:
            try:
                with memoryview(self._unsent) as view:
                    sent = self._send(view[: HIGH_BYTES // 4])
            except BlockingIOError:
                self._watch_room()
                break
            except OSError:
                self._on_broken()
                return
            del self._unsent[:sent]
        if self._held_bytes != len(self._unsent) and not self._is_over:
            self._count()
        if self.is_congested and len(self._unsent) < HIGH_BYTES // 2:
            self.is_congested = False
            self._user.on_drained()

    def _watch_room(self) -> None:
        """From the first time on that the socket does not take everything."""
        if not self._is_room_watched:
            self._is_room_watched = True
            self._stream.watch(self._on_ready, self._on_crash, EDGES)

    # -- the end

    def fail(self, outcome: Outcome, detail: str, alert: Alert | None = Alert.CLOSE_NOTIFY) -> None:
        """End the connection, tell the peer by an alert where that is possible, and tell the user."""
        if self._is_over:
            return
        self.finish(alert)
        self._user.on_lost(outcome, detail)

    def finish(self, alert: Alert | None = Alert.CLOSE_NOTIFY) -> None:
        """Close: what is unsent and the alert go out first. The user is not told."""
        if self._is_over:
            return
        self._stop_timer()
        if self._records is not None and alert is not None:
            self._unsent += self._records.seal_alert(alert)
        self._is_over = True
        self._let_go()
        # It waits for a moment only, and for the peer no more.
        unsent, self._unsent = self._unsent, bytearray()
        self._count()
        self.parted = self._stream.finish(unsent, is_heard_out=self._is_heard_out)

    def abort(self, outcome: Outcome | None = None, detail: str = "") -> None:
        """Close at once, with a reset for the peer. The user is told where there is an outcome."""
        if self.parted is not None:
            self.parted.cut()
        elif not self._is_over:
            self._is_over = True
            self._stop_timer()
            self._let_go()
            self._unsent.clear()
            self._count()
            self._stream.cut()
            if outcome is not None:
                self._user.on_lost(outcome, detail)

    def part(self) -> None:
        """The user hears nothing more, and is not held."""
        self._user = NOBODY

    def _let_go(self) -> None:
        if self._session is not None:
            self._session.close()
        self._records = self._session = self._ask_turn = None
        self._held = b""


def _said(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)
