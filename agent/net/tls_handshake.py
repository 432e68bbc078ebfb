"""The handshake of a TLS connection, up to its first record; what comes after it is `net.tls_link`'s."""

from __future__ import annotations

from agent.identity.faults import Fault
from agent.identity.handshake import HandshakeError, Secured, Session
from agent.model.outcome import Outcome
from agent.net.byte_stream import ByteStream
from agent.net.loop import INBOUND_EDGES, Loop
from agent.net.peer_time import PeerTime
from agent.net.tls_link import TlsLink, said_by
from agent.net.turns import AskTurn
from agent.wire.tls_records import TlsRecords

_READ_BYTES = 1 << 14


class HandshakingLink(TlsLink):
    """A link that is begun: `session` decides the end.

    Each step of the handshake is taken when `ask_turn` says so (None: at once). `timeout_s` is the peer's: a client's
    begins with its hello, and stands while a step waits for its turn; a server's runs on, as anybody can have it wait.
    """

    __slots__ = ("_ask_turn", "_session", "_time")

    def __init__(
        self,
        loop: Loop,
        stream: ByteStream,
        session: Session,
        timeout_s: float,
        ask_turn: AskTurn | None = None,
    ) -> None:
        super().__init__(loop, stream)
        self._session: Session | None = session
        self._ask_turn = ask_turn
        self._time = PeerTime(loop, timeout_s, self._on_timeout)

    def start(self, said: bytes = b"") -> None:
        """`said`: the peer's first words, read before; this is the turn of the step they make."""
        self._stream.watch(self._on_ready, self._on_crash, INBOUND_EDGES)
        session = self._session
        if session is not None and session.owes_hello:
            self._shake_next()
            return
        self._time.run()
        if said and session is not None:
            try:
                self._hear(session, said)
            except Exception as error:
                self._on_crash(error)
                raise

    def _read_before_records(self) -> None:
        if self._ask_turn is not None:
            self._shake_next()
        else:
            self._shake()

    def _shake(self) -> bool:
        """Take a step with what has arrived; whether that was work."""
        session = self._session
        if session is None or self._is_over:
            return False
        if session.owes_hello:
            self._unsent += session.outgoing()
            self._send_unsent()
            return True
        try:
            data = self._stream.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self.fail(Outcome.TLS_FAILED, f"TLS handshake: {said_by(error)}")
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
        if (len(data) == _READ_BYTES or self._ended) and not self._is_over:
            self._go_on()

    def _shake_in_turn(self) -> bool:
        try:
            was_work = self._shake()
        except Exception as error:
            self._on_crash(error)
            raise
        if self._session is not None and not self._is_over:
            self._time.run()
        return was_work

    def _go_on(self) -> None:
        if self._records is not None:
            self._loop.soon(self._read)
        else:
            self._shake_next()

    def _shake_next(self) -> None:
        if self._session is not None and not self._session.is_server:
            self._time.stand()
        (self._ask_turn or self._loop.soon)(self._shake_in_turn)

    def _secure(self, secured: Secured, is_server: bool) -> None:
        self._session = self._ask_turn = None
        self._secured = secured
        records = self._records = TlsRecords(secured.state)
        self._time.end()
        self.user.on_secured(secured)
        left = secured.leftover
        if left and not self._is_over:
            self._buffers.received[: len(left)] = left
            self._take(records, self._buffers.received, len(left))
        elif is_server:
            # A client's first words come right behind its handshake: the answers to both leave together.
            self._read()

    def _on_timeout(self) -> None:
        self.fault = Fault.TIMEOUT
        self.fail(Outcome.TLS_FAILED, "the TLS handshake was not done in time")

    def _let_go(self) -> None:
        self._time.end()
        if self._session is not None:
            self._session.close()
        self._session = self._ask_turn = None
        super()._let_go()
