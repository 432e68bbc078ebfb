"""TLS 1.3 handshakes of the mesh, by OpenSSL over memory buffers.

Decides who the other end is: chain, validity and usage are checked by OpenSSL, the SPIFFE identity here,
before any application byte is looked at (docs/WIRE.md#mutual-tls). What comes out is a `Secured`: plain
values for `wire.tls_records`; OpenSSL is not used again for the connection. Knows nothing of sockets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from agent.identity.credentials import Credentials
from agent.identity.engine import ALPN, Engine
from agent.identity.faults import Fault
from agent.identity.presented import Check, is_client_of, is_server_of, presented_by
from agent.identity.revocations import Certified, Revocations, certified
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.model.unit import PlainValue, State, StateReader
from agent.wire.tls_alerts import Alert, alert_meaning
from agent.wire.tls_records import HEADER_BYTES, MAX_CIPHER_BYTES, TlsRecords, TlsState

# A hello with post-quantum key share and a chain of several certificates stay far below.
MAX_HANDSHAKE_BYTES = 1 << 17
_LONGEST_CHAIN = 32
_HANDSHAKE_RECORDS = (20, 21, 22, 23)
# How OpenSSL names an alert that came from the peer: "tlsv1 alert unknown ca", "ssl/tls alert bad certificate".
_ALERT = re.compile(rf" alert ({'|'.join(alert.name.replace('_', ' ').lower() for alert in Alert)})$")


# How OpenSSL says that the peer has no key exchange that is allowed here.
_NO_COMMON_GROUP = ("no suitable key share", "no suitable groups", "no shared groups", "bad key share")


def _no_other(group: str) -> str:
    return f"--compliance-policy allows the key exchange {group} alone"


def other_group(allowed: str, used: str) -> str:
    """Why a handshake that has used one key exchange is not good where one alone is allowed; empty if it is.

    An empty `allowed`: any is. An empty `used`: it is not known.
    """
    if not allowed or used == allowed:
        return ""
    return f"{_no_other(allowed)}; this handshake has used {used or 'one that is not known'}"


def _records_in(data: bytes) -> int:
    """How many records these are, all of them whole."""
    records, at, size = 0, 0, len(data)
    while at < size:
        at += HEADER_BYTES + (data[at + 3] << 8 | data[at + 4])
        records += 1
    return records


class HandshakeError(Refusal):
    """The handshake failed: outcome TLS_FAILED, or WRONG_IDENTITY when TLS was fine but the peer is not."""

    def __init__(self, fault: Fault, detail: str) -> None:
        outcome = Outcome.WRONG_IDENTITY if fault is Fault.WRONG_IDENTITY else Outcome.TLS_FAILED
        super().__init__(outcome, detail)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Secured:
    """A finished handshake: who the peer is, the record state, and bytes that came behind the handshake."""

    state: TlsState
    suite: str
    group: str
    peer: Identity
    peer_der: bytes = field(repr=False)
    leftover: bytes = field(repr=False)
    chain: tuple[Certified, ...] = field(default=(), repr=False)
    """As it was verified, from the leaf to its anchor; only where certificates can be revoked."""

    def plain(self, state: TlsState) -> State:
        """With `state` of its records, as they are by now. Who the peer is is in its certificate."""
        chain = [each.certificate.public_bytes(Encoding.DER) for each in self.chain]
        return {"records": state.plain(), "group": self.group, "peer_der": self.peer_der, "chain": chain}

    @classmethod
    def from_plain(cls, value: PlainValue) -> Secured:
        """Raises BadUnit. Whether the peer is still welcome is for who goes on with it to ask."""
        fields = StateReader("the peer", value)
        state = TlsState.from_plain(fields.value("records"))
        der = fields.blob("peer_der", MAX_HANDSHAKE_BYTES)
        try:
            peer = presented_by(der)
            chain = [certified(each) for each in fields.blobs("chain", _LONGEST_CHAIN)]
        except ValueError as error:
            raise fields.refuse("peer_der", f"no certificate: {error}") from None
        if not isinstance(peer, Identity):
            raise fields.refuse("peer_der", f"it {peer.text}")
        secured = cls(state, state.suite, fields.text("group", 64), peer, der, b"", tuple(chain))
        fields.done()
        return secured


class Session:
    """One handshake, either end. `feed` what arrives, send `outgoing`, until `done`."""

    __slots__ = (
        "_check",
        "_context",
        "_engine",
        "_fed_bytes",
        "_group",
        "_incoming",
        "_is_server",
        "_notes",
        "_output",
        "_revocations",
        "_secured",
        "anchors",
    )

    def __init__(
        self,
        context: SSL.Context,
        anchors: tuple[x509.Certificate, ...],
        check: Check,
        is_server: bool,
        revocations: Revocations | None = None,
        group: str = "",
    ) -> None:
        self.anchors = anchors
        self._group = group
        self._context = context
        self._engine: Engine | None = None
        self._check = check
        self._is_server = is_server
        self._revocations = revocations
        self._incoming = bytearray()
        self._output = b""
        self._notes: dict[str, Fault] = {}
        self._secured: Secured | None = None
        self._fed_bytes = 0

    @classmethod
    def server(cls, credentials: Credentials, revocations: Revocations | None = None) -> Session:
        """The accepting end: the client must prove an identity in our own trust domain."""
        own = credentials.identity
        check, anchors = is_client_of(own), credentials.anchors
        return cls(credentials.server_context, anchors, check, True, revocations, credentials.group)

    @classmethod
    def client(
        cls, credentials: Credentials, accepted: tuple[Identity, ...], revocations: Revocations | None = None
    ) -> Session:
        """The dialling end: the server must prove one of `accepted`. Sends no server name."""
        check = is_server_of(accepted)
        anchors = credentials.anchors
        return cls(credentials.client_context, anchors, check, False, revocations, credentials.group)

    @property
    def is_server(self) -> bool:
        return self._is_server

    @property
    def done(self) -> bool:
        return self._secured is not None

    @property
    def secured(self) -> Secured:
        """The result. Only when `done`."""
        if self._secured is None:
            raise AssertionError("the handshake is not done")
        return self._secured

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; not to be called once `done`.

        Raises HandshakeError; what `outgoing` holds then (an alert) should still be sent.
        """
        self._incoming += data
        # OpenSSL is given all of them at once, and leaves what is behind the handshake's last one.
        records, fault = self._whole_records()
        if records:
            self._step(records)
        if fault is not None and self._secured is None:
            raise HandshakeError(*fault)
        self._collect()

    @property
    def owes_hello(self) -> bool:
        """A client's, of which nothing is made yet: it has cost neither time nor memory."""
        return not self._is_server and self._engine is None and self._secured is None

    def outgoing(self) -> bytes:
        """Bytes for the peer; empty when there are none. A client's hello is made when it is first asked for."""
        if self.owes_hello:
            self._step(b"")
            self._collect()
        data, self._output = self._output, b""
        return data

    def close(self) -> None:
        """It comes to nothing. What it holds of OpenSSL goes at once."""
        self._engine = None

    def note(self, fault: Fault, text: str) -> None:
        """Something a callback found, to explain the failure that OpenSSL will report."""
        self._notes.setdefault(text, fault)

    def _whole_records(self) -> tuple[bytes, tuple[Fault, str] | None]:
        """What has come of them, and what is wrong with what is behind.

        In words: an exception that its own frames hold is for the garbage collector, with all else that they hold.
        """
        data, end = self._incoming, 0
        held = len(data)
        fault: tuple[Fault, str] | None = None
        while end < held:
            if data[end] not in _HANDSHAKE_RECORDS:
                said = bytes(data[end : end + 16])
                text = f"the peer does not speak TLS here; its first bytes are {said!r}"
                fault = Fault.NOT_TLS, text
                break
            if held - end < HEADER_BYTES:
                break
            size = HEADER_BYTES + (data[end + 3] << 8 | data[end + 4])
            if size > HEADER_BYTES + MAX_CIPHER_BYTES or self._fed_bytes + size > MAX_HANDSHAKE_BYTES:
                fault = Fault.PROTOCOL, "the peer's handshake is longer than any legal one"
                break
            if held - end < size:
                break
            self._fed_bytes += size
            end += size
        records = bytes(data[:end])
        del data[:end]
        return records, fault

    def _step(self, records: bytes) -> None:
        engine = self._engine
        if engine is None:
            engine = self._engine = Engine(self._context, self._is_server)
        try:
            is_done = engine.step(self, records)
        except SSL.Error as error:
            self._collect()
            raise self._explain(error) from None
        if is_done:
            self._finish(engine)

    def _collect(self) -> bytes:
        """Move what OpenSSL wants to send to the output."""
        engine = self._engine
        if engine is None:
            return b""
        data = engine.sent()
        self._output += data
        return data

    def _finish(self, engine: Engine) -> None:
        if engine.protocol() != ALPN:
            raise HandshakeError(Fault.NO_HTTP2, "the peer does not speak HTTP/2 inside TLS (no ALPN h2)")
        der = engine.peer_der()
        # What a server sends behind the client's last message are session tickets, sealed under the
        # application key already: they count in its write sequence.
        sent = self._collect()
        client, server = engine.secrets()
        read, write = (client, server) if self._is_server else (server, client)
        state = TlsState(engine.suite(), read, 0, write, _records_in(sent) if self._is_server else 0)
        group = engine.group()
        # The context offers nothing else; this is the proof of it.
        if text := other_group(self._group, group):
            raise self._turned_away(
                HandshakeError(Fault.KEY_EXCHANGE, text), state, Alert.INSUFFICIENT_SECURITY
            )
        chain = self._checked_chain(engine, state)
        peer = self._identified(der, state)
        leftover = engine.left() + bytes(self._incoming)
        self._secured = Secured(state, state.suite, group, peer, der, leftover, chain)
        self._engine = None
        self._incoming.clear()

    def _checked_chain(self, engine: Engine, state: TlsState) -> tuple[Certified, ...]:
        """Raises HandshakeError where a certificate of it was revoked."""
        revocations = self._revocations
        if revocations is None:
            return ()
        chain = tuple(map(certified, engine.verified_chain()))
        reason = revocations.refusal(chain)
        if reason:
            revocations.count(is_client=self._is_server)
            raise self._turned_away(HandshakeError(Fault.REVOKED, reason), state, Alert.CERTIFICATE_REVOKED)
        return chain

    def _identified(self, der: bytes, state: TlsState) -> Identity:
        """Who the peer is. Raises HandshakeError where that is nobody, or not who it should be."""
        presented = presented_by(der)
        if isinstance(presented, Identity):
            reason = self._check(presented)
            if not reason:
                return presented
            refusal = HandshakeError(Fault.WRONG_IDENTITY, reason)
        else:
            refusal = HandshakeError(presented.fault, f"the peer's certificate {presented.text}")
        raise self._turned_away(refusal, state, Alert.ACCESS_DENIED)

    def _turned_away(self, refusal: HandshakeError, state: TlsState, alert: Alert) -> HandshakeError:
        if self._is_server:
            self._output += TlsRecords(state).seal_alert(alert)
        else:
            # The last flight would hand our certificate to a server that is not the one meant.
            self._output = b""
        return refusal

    def _explain(self, error: SSL.Error) -> HandshakeError:
        """What has failed: as a callback saw it, as the peer says, else as OpenSSL does."""
        if self._notes:
            return HandshakeError(next(iter(self._notes.values())), "; ".join(self._notes))
        reasons = [str(entry[-1]) for entry in error.args[0]] if error.args and error.args[0] else []
        for reason in reasons:
            if alert := _ALERT.search(reason):
                said = Alert[alert[1].replace(" ", "_").upper()]
                if self._group and said is Alert.HANDSHAKE_FAILURE:
                    text = f"and the peer, which ended TLS with the alert {alert[1]}, seems not to have it"
                    return HandshakeError(Fault.KEY_EXCHANGE, f"{_no_other(self._group)}, {text}")
                return HandshakeError(Fault.REFUSED_BY_PEER, alert_meaning(said))
        if not reasons:
            return HandshakeError(Fault.CLOSED, "TLS handshake: the peer closed the connection")
        text = ", ".join(reasons)
        if "peer did not return a certificate" in text:
            return HandshakeError(Fault.NO_CERTIFICATE, "TLS handshake: the peer presents no certificate")
        if self._group and any(mark in text for mark in _NO_COMMON_GROUP):
            return HandshakeError(
                Fault.KEY_EXCHANGE, f"{_no_other(self._group)}, and the peer has not that: {text}"
            )
        return HandshakeError(Fault.PROTOCOL, f"TLS handshake: {text}")
