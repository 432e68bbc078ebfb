"""One TLS connection over a byte stream, records in and out, on the nested epoll.

Plaintext arrives as one view per read; what is sent is sealed and written once per turn. Ciphertext the
stream does not take waits here, and `is_congested` tells the readers upstream to pause. Knows nothing of
HTTP/2; its user is told of everything through `TlsUser`. Begins with what a handshake made of it
(`net.tls_handshake`), or with what another process was at (`from_state`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from agent.identity.faults import Fault
from agent.identity.handshake import Secured
from agent.model.outcome import Outcome
from agent.model.unit import PlainValue, State, StateReader
from agent.net.buffers import RECEIVE_BYTES
from agent.net.byte_stream import ByteStream, Parted
from agent.net.loop import EDGES, ENDED, INBOUND_EDGES, READABLE, WRITABLE, Loop
from agent.net.sockets import was_destroyed
from agent.net.tls_user import NOBODY, TlsUser
from agent.wire.tls_alerts import Alert
from agent.wire.tls_records import RECORD_BYTES, TlsError, TlsRecords

HIGH_BYTES = 1 << 20
"""Unsent ciphertext above which readers pause."""
# Readers obey HIGH_BYTES, so only answers to a flood of control frames can grow so far.
LIMIT_BYTES = 4 * HIGH_BYTES


class TlsLink:
    """The stream belongs to the link. Nothing is read or sent before `start`.

    Who uses it says so by `user`, before that.
    """

    __slots__ = (
        "_buffers",
        "_ended",
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
        "_stream",
        "_unsent",
        "fault",
        "is_congested",
        "parted",
        "user",
    )

    def __init__(self, loop: Loop, stream: ByteStream) -> None:
        self._loop = loop
        self._buffers = stream.buffers
        self._stream = stream
        self._recv_into = stream.recv_into
        self._send = stream.send
        self.user: TlsUser = NOBODY
        self._secured: Secured | None = None
        self._records: TlsRecords | None = None
        self._held = b""
        """The beginning of a record, of which the rest has not come."""
        self._unsent = bytearray()
        self._held_bytes = 0
        """How much of what is unsent is counted as unread."""
        self._ended = self._is_over = self._is_heard_out = self._is_room_watched = False
        self.is_congested = False
        self.fault: Fault | None = None
        """Why there is no connection, where the handshake is what failed; a peer may refuse it after its end."""
        self.parted: Parted | None = None
        """What is left after an end in order, until the peer has read it."""

    def start(self, said: bytes = b"") -> None:
        """Go on. (`said` is for the handshake.)"""
        assert not said and self._records is not None, "without a handshake there is a state"
        self._is_room_watched = bool(self._unsent)
        self._stream.watch(self._on_ready, self._on_crash, EDGES if self._unsent else INBOUND_EDGES)
        self._count()
        self.is_congested = len(self._unsent) > HIGH_BYTES

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

    @property
    def round_trip_s(self) -> Callable[[], float]:
        """Tells how long the path below is."""
        return self._stream.round_trip_s

    # -- events

    def _on_ready(self, mask: int) -> None:
        if mask & ENDED:
            self._ended = True
        if mask & WRITABLE and (self._unsent or self._records is None):
            self._send_unsent()
        if mask & READABLE:
            if self._records is not None:
                self._read()
            else:
                self._read_before_records()

    def _read_before_records(self) -> None:
        """Something may be read, and hands are still shaken."""

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
            self.fail(outcome, f"the connection broke: {said_by(error)}", None)
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
            self.user.on_plaintext(opened[:made])
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
        self.user.on_lost(Outcome.INTERNAL, f"{type(error).__name__}: {error}")

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
        return self.user

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

    def _go_on(self) -> None:
        self._loop.soon(self._read)

    def _on_growth(self) -> None:
        size = len(self._unsent)
        if size > LIMIT_BYTES:
            self.abort()
            self.user.on_lost(Outcome.H2_FAILED, "the peer asks for answers and does not read them")
        elif size > HIGH_BYTES:
            self.is_congested = True

    def _send_unsent(self) -> None:
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
            self.user.on_drained()

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
        self.user.on_lost(outcome, detail)

    def finish(self, alert: Alert | None = Alert.CLOSE_NOTIFY) -> None:
        """Close: what is unsent and the alert go out first. The user is not told."""
        if self._is_over:
            return
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
            self._let_go()
            self._unsent.clear()
            self._count()
            self._stream.cut()
            if outcome is not None:
                self.user.on_lost(outcome, detail)

    def part(self) -> None:
        """The user hears nothing more, and is not held."""
        self.user = NOBODY

    def _let_go(self) -> None:
        self._records = None
        self._held = b""

    # -- going on elsewhere

    @property
    def stays(self) -> str:
        """Why it can only go on here; empty: it may be frozen."""
        if self._is_over:
            return "the connection has ended"
        if self._records is None:
            return "its TLS handshake is under way"
        return "" if self._stream.sock is not None else "it runs in a tunnel of another connection"

    def freeze(self) -> None:
        """Stop without an end, and without a word to user or peer: it goes on from `state` and the socket.

        Whatever its user had to say has to be said before. Where it `stays`, never.
        """
        self._is_over = True
        self._stream.forget()
        if self._held_bytes:
            self._loop.backlogs.release(self, self._held_bytes)
            self._held_bytes = 0

    @property
    def sock(self) -> socket.socket:
        """What it goes on with."""
        sock = self._stream.sock
        assert sock is not None, "it stays"
        return sock

    def state(self) -> State:
        """What is unsent was sealed: it has to leave first, byte for byte."""
        assert self._secured is not None and self._records is not None, "it stays"
        return {
            "secured": self._secured.plain(self._records.state()),
            "held": self._held,
            "unsent": bytes(self._unsent),
        }

    @classmethod
    def from_state(cls, loop: Loop, stream: ByteStream, value: PlainValue) -> TlsLink:
        """Not started. Raises BadUnit; the stream stays the caller's then."""
        fields = StateReader("the TLS link", value)
        made = cls(loop, stream)
        secured = made._secured = Secured.from_plain(fields.value("secured"))
        made._records = TlsRecords(secured.state)
        made._held = fields.blob("held", RECORD_BYTES)
        made._unsent += fields.blob("unsent", LIMIT_BYTES)
        fields.done()
        return made


def said_by(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)
