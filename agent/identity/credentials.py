"""What a workload proves its identity with and whom it trusts, and the OpenSSL contexts that say so.

One way to make them for every use: handshakes, and the proof that a certificate would pass at a peer. Keys come from
memory and never reach a disk or a log.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from OpenSSL import SSL, crypto

from agent.identity.anchors import is_authority
from agent.identity.engine import listen
from agent.identity.key_exchange import narrow
from agent.model.identity import Identity

# AES-128 first: both are beyond reach, and it is a quarter cheaper per byte.
CIPHER_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
_NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN of ssl.h, which pyOpenSSL does not name


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
        listen(context, is_server=is_server)
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
    return context
