"""What a workload proves its identity with and whom it trusts, and the OpenSSL contexts that say so.

One way to make them for every use: handshakes, and the proof that a certificate would pass at a peer. Keys come from
memory and never reach a disk or a log.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from OpenSSL import SSL, crypto

from agent.identity.anchors import is_authority
from agent.identity.faults import Fault, fault_of
from agent.identity.key_exchange import narrow
from agent.identity.svid import UNREADABLE
from agent.identity.verify_words import not_accepted, unreadable
from agent.model.identity import Identity

# AES-128 first: both are beyond reach, and it is a quarter cheaper per byte.
CIPHER_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
ALPN = b"h2"
_TRAFFIC_SECRETS = (b"CLIENT_TRAFFIC_SECRET_0 ", b"SERVER_TRAFFIC_SECRET_0 ")
_NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN of ssl.h, which pyOpenSSL does not name


class HearsHandshake(Protocol):
    """Who runs a handshake: the app data of its connection."""

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]: ...

    def note(self, fault: Fault, text: str) -> None:
        """Something was found that explains the failure that OpenSSL will report."""
        ...

    def take_secret(self, of_client: bool, secret: bytes) -> None: ...


@dataclass(frozen=True)
class Credentials:
    """What one workload proves its identity with, and whom it trusts.

    `chain` is the leaf and its intermediates, leaf first, roots left out; `roots` are those for peers, all of
    them equal. The OpenSSL contexts are made once per object: hold on to it.
    """

    identity: Identity
    key: EllipticCurvePrivateKey | RSAPrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    roots: tuple[x509.Certificate, ...] = field(repr=False)
    group: str = ""
    """The one key exchange that its handshakes may use; empty: any that OpenSSL has."""
    ends: float | None = None
    """When an authority that it rests on expires before the leaf does, in seconds since the epoch; None: none does."""

    @cached_property
    def server_context(self) -> SSL.Context:
        return self.make_context(is_server=True)

    @cached_property
    def client_context(self) -> SSL.Context:
        return self.make_context(is_server=False)

    def make_context(self, *, is_server: bool, at: float | None = None) -> SSL.Context:
        """A context of a handshake's end. `at`, in seconds since the epoch, instead of the time of the handshake.

        Raises Refusal where there is a `group` that this OpenSSL does not have.
        """
        context = _context(self, at)
        if is_server:
            context.set_alpn_select_callback(_select_alpn)
        else:
            context.set_alpn_protos([ALPN])
        return context

    @cached_property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        """Those of the roots that may be trust anchors."""
        return tuple(root for root in self.roots if is_authority(root))

    @cached_property
    def expiry(self) -> datetime:
        """When the leaf expires."""
        return self.chain[0].not_valid_after_utc

    @cached_property
    def not_after(self) -> float:
        """When it can be used no longer, in seconds since the epoch: the leaf expires, or an authority it rests on."""
        leaf = self.expiry.timestamp()
        return leaf if self.ends is None else min(leaf, self.ends)

    @cached_property
    def shown_until(self) -> float:
        """When the first of the chain expires, also one that nothing rests on, in seconds since the epoch."""
        return min(each.not_valid_after_utc.timestamp() for each in self.chain)

    def without_expired(self, now: float) -> Credentials:
        """The same, without what has expired of the certificates above the leaf. `now`: seconds since the epoch."""
        above = (each for each in self.chain[1:] if each.not_valid_after_utc.timestamp() > now)
        return replace(self, chain=(self.chain[0], *above))


def _context(credentials: Credentials, at: float | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHER_SUITES)
    if credentials.group:
        narrow(context, credentials.group)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # Else OpenSSL builds and verifies a leaf's own chain anew in every handshake, and sends the root along.
    # Whoever says nothing more holds no buffers, either.
    context.set_mode(_NO_AUTO_CHAIN | SSL.MODE_RELEASE_BUFFERS)
    context.use_privatekey(credentials.key)
    context.use_certificate(credentials.chain[0])
    for certificate in credentials.chain[1:]:
        context.add_extra_chain_cert(certificate)
    store = context.get_cert_store()
    assert store is not None, "a context has a store"
    # An issuing CA is an anchor as it stands, whoever signed it. With this flag a leaf would be one as well.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if at is not None:
        store.set_time(datetime.fromtimestamp(at, UTC))
    for anchor in credentials.anchors:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _on_verify)
    context.set_keylog_callback(_on_secret)
    return context


def _session_of(connection: SSL.Connection) -> HearsHandshake:
    session: HearsHandshake = connection.get_app_data()
    return session


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> Any:
    if ALPN in offered:
        return ALPN
    text = f"the peer offers the protocols {offered!r}; HBONE is {ALPN.decode()}"
    _session_of(connection).note(Fault.NO_HTTP2, text)
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _on_verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    if not ok:
        session = _session_of(connection)
        session.note(fault_of(error), words_of(error, certificate, depth, session.anchors))
    return bool(ok)


def words_of(error: int, certificate: crypto.X509, depth: int, anchors: tuple[x509.Certificate, ...]) -> str:
    """Why a certificate is refused: also for one that OpenSSL can read, and nobody else."""
    try:
        return not_accepted(error, certificate.to_cryptography(), depth, anchors)
    except UNREADABLE as why:
        return unreadable(error, why)


def _on_secret(connection: SSL.Connection, line: bytes) -> None:
    # The one place traffic secrets pass through as text: they go into the session and nowhere else.
    if line.startswith(_TRAFFIC_SECRETS):
        secret = line[line.rindex(b" ") + 1 :]
        _session_of(connection).take_secret(line[:6] == b"CLIENT", bytes.fromhex(secret.decode()))
