"""TLS 1.3 handshakes of the mesh, by pyOpenSSL over memory buffers.

Decides who the other end is: chain, validity and usage are checked by OpenSSL, the SPIFFE identity here,
before any application byte is looked at (docs/WIRE.md#mutual-tls). What comes out is a `Secured`: plain
values for `wire.tls_records`; OpenSSL is not used again for the connection. Knows nothing of sockets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from agent.identity.credentials import ALPN, Credentials
from agent.identity.faults import Fault
from agent.identity.presented import Check, is_client_of, is_server_of, presented_by
from agent.identity.revocations import Certified, Revocations, certified
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.model.unit import PlainValue, State, StateReader
from agent.wire.tls_alerts import Alert, alert_meaning
from agent.wire.tls_records import CHANGE_CIPHER_SPEC, HEADER_BYTES, MAX_CIPHER_BYTES, TlsRecords, TlsState

# A hello with post-quantum key share and a chain of several certificates stay far below.
MAX_HANDSHAKE_BYTES = 1 << 17
_LONGEST_CHAIN = 32
_HANDSHAKE_RECORDS = (20, 21, 22, 23)
# What is longer comes in pieces; a larger buffer would be made, and given back to the kernel, for every flight.
_READ_BYTES = 1 << 13
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
        "_client_secret",
        "_connection",
        "_context",
        "_fed_bytes",
        "_group",
        "_incoming",
        "_is_server",
        "_notes",
        "_output",
        "_revocations",
        "_secured",
        "_server_secret",
        "anchors",
    )
    __deletable__ = ("_connection", "_incoming")

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
        self._context: SSL.Context | None = context
        self._check = check
        self._is_server = is_server
        self._revocations = revocations
        self._incoming = bytearray()
        self._output = b""
        self._notes: dict[str, Fault] = {}
        self._client_secret = self._server_secret = b""
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
        # Record by record: what follows the last record of the handshake must not reach OpenSSL.
        while self._secured is None:
            record = self._next_record()
            if record is None:
                self._collect()
                return
            if self._context is not None:
                self._connect(self._context)
            self._connection.bio_write(record)
            if record[0] != CHANGE_CIPHER_SPEC:  # that one means nothing by itself: it goes with the next
                self._step()

    @property
    def owes_hello(self) -> bool:
        """A client's, of which nothing is made yet: it has cost neither time nor memory."""
        return not self._is_server and self._context is not None

    def outgoing(self) -> bytes:
        """Bytes for the peer; empty when there are none. A client's hello is made when it is first asked for."""
        if self._context is not None and not self._is_server:  # as `owes_hello`, which tells mypy nothing
            self._connect(self._context)
            self._step()
            self._collect()
        data, self._output = self._output, b""
        return data

    def close(self) -> None:
        """It comes to nothing. What it holds goes at once, without waiting for the garbage collector."""
        if self._secured is None and self._context is None:
            self._context = self._connection.get_context()
            self._connection.set_app_data(None)
            del self._connection

    def note(self, fault: Fault, text: str) -> None:
        """Something a callback found, to explain the failure that OpenSSL will report."""
        self._notes.setdefault(text, fault)

    def take_secret(self, of_client: bool, secret: bytes) -> None:
        if of_client:
            self._client_secret = secret
        else:
            self._server_secret = secret

    def _connect(self, context: SSL.Context) -> None:
        self._context = None
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(self)
        if self._is_server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def _next_record(self) -> bytes | None:
        data = self._incoming
        held = len(data)
        if held and data[0] not in _HANDSHAKE_RECORDS:
            raise HandshakeError(
                Fault.NOT_TLS, f"the peer does not speak TLS here; its first bytes are {bytes(data[:16])!r}"
            )
        if held < HEADER_BYTES:
            return None
        size = HEADER_BYTES + (data[3] << 8 | data[4])
        if held >= size:
            self._fed_bytes += size
        if size > HEADER_BYTES + MAX_CIPHER_BYTES or self._fed_bytes > MAX_HANDSHAKE_BYTES:
            raise HandshakeError(Fault.PROTOCOL, "the peer's handshake is longer than any legal one")
        if held < size:
            return None
        record = bytes(data[:size])
        del data[:size]
        return record

    def _step(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            self._collect()
            raise self._explain(error) from None
        self._finish()

    def _collect(self) -> bytes:
        """Move what OpenSSL wants to send to the output."""
        if self._context is not None:
            return b""
        read, data = self._connection.bio_read, b""
        try:
            data = piece = read(_READ_BYTES)
            while len(piece) == _READ_BYTES:
                piece = read(_READ_BYTES)
                data += piece
        except SSL.WantReadError:
            if not data:
                return b""
        self._output += data
        return data

    def _finish(self) -> None:
        connection = self._connection
        if connection.get_alpn_proto_negotiated() != ALPN:
            raise HandshakeError(Fault.NO_HTTP2, "the peer does not speak HTTP/2 inside TLS (no ALPN h2)")
        certificate = connection.get_peer_certificate()
        assert certificate is not None, "OpenSSL lets nobody through without one"
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        # What a server sends behind the client's last message are session tickets, sealed under the
        # application key already: they count in its write sequence.
        sent = self._collect()
        state = self._state(str(connection.get_cipher_name()), _records_in(sent) if self._is_server else 0)
        group = str(connection.get_group_name() or "")
        # The context offers nothing else; this is the proof of it.
        if text := other_group(self._group, group):
            raise self._turned_away(
                HandshakeError(Fault.KEY_EXCHANGE, text), state, Alert.INSUFFICIENT_SECURITY
            )
        chain = self._checked_chain(state)
        self._secured = Secured(
            state,
            state.suite,
            group,
            self._identified(der, state),
            der,
            bytes(self._incoming),
            chain,
        )
        # The connection and the session hold each other; apart, both go without the garbage collector.
        connection.set_app_data(None)
        del self._connection, self._incoming

    def _checked_chain(self, state: TlsState) -> tuple[Certified, ...]:
        """Raises HandshakeError where a certificate of it was revoked."""
        revocations = self._revocations
        if revocations is None:
            return ()
        verified = self._connection.get_verified_chain() or ()
        chain = tuple(certified(crypto.dump_certificate(crypto.FILETYPE_ASN1, each)) for each in verified)
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

    def _state(self, suite: str, sent_records: int) -> TlsState:
        read, write = self._server_secret, self._client_secret
        if self._is_server:
            read, write = write, read
        self._client_secret = self._server_secret = b""
        return TlsState(suite, read, 0, write, sent_records)

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
