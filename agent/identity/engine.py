"""One end of a TLS handshake inside OpenSSL, over memory: its library's own calls, by the binding of `cryptography`.

`OpenSSL.SSL.Connection` makes the same calls, but wraps what each of them takes and returns: a fifth of a handshake's
time (docs/BENCH.md#where-the-time-goes). So pyOpenSSL makes contexts, and who shakes hands is here. What OpenSSL calls
back are functions of this module, the same for all contexts; which end one is about is known while that end is inside
a step, and at no other time: nothing has to be undone when an end is dropped.
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from agent.identity.faults import Fault, fault_of
from agent.identity.svid import UNREADABLE
from agent.identity.verify_words import not_accepted, unreadable

ALPN = b"h2"

_lib, _ffi = Binding.lib, Binding.ffi
# Not zeroed: what is read out of a BIO is copied from its beginning.
_allocate = _ffi.new_allocator(should_clear_after_alloc=False)
# A flight of most ends; what is longer comes in pieces.
_READ_BYTES = 1 << 13
_VERIFY = _lib.SSL_VERIFY_PEER | _lib.SSL_VERIFY_FAIL_IF_NO_PEER_CERT
_TRAFFIC_SECRETS = (b"CLIENT_TRAFFIC_SECRET_0 ", b"SERVER_TRAFFIC_SECRET_0 ")


class HearsHandshake(Protocol):
    """Who runs a handshake, and is told why it will fail."""

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]: ...

    def note(self, fault: Fault, text: str) -> None:
        """Something was found that explains the failure that OpenSSL will report."""
        ...


class Engine:
    """One end. `step` it with what arrives, send what it has `sent`, until it is done."""

    __slots__ = ("_from_peer", "_hears", "_secrets", "_ssl", "_to_peer", "error")

    def __init__(self, context: SSL.Context, is_server: bool) -> None:
        # The object keeps its context inside OpenSSL, and owns both BIOs.
        self._ssl = _ffi.gc(_lib.SSL_new(context._context), _lib.SSL_free)
        self._from_peer = _lib.BIO_new(_lib.BIO_s_mem())
        self._to_peer = _lib.BIO_new(_lib.BIO_s_mem())
        _lib.SSL_set_bio(self._ssl, self._from_peer, self._to_peer)
        if is_server:
            _lib.SSL_set_accept_state(self._ssl)
        else:
            _lib.SSL_set_connect_state(self._ssl)
        self._hears: HearsHandshake | None = None
        self._secrets: list[bytes] = []
        self.error: Exception | None = None

    def step(self, hears: HearsHandshake, data: bytes) -> bool:
        """Go on with `data`, whole records; whether the handshake is done. Raises SSL.Error where it has failed.

        OpenSSL reads record by record, and none behind the last one of the handshake: that is `left`.
        """
        ssl = self._ssl
        if data and _lib.BIO_write(self._from_peer, data, len(data)) != len(data):
            raise MemoryError("OpenSSL has no memory for what the peer says")
        self._hears = hears
        _stepping[ssl] = self
        try:
            result = _lib.SSL_do_handshake(ssl)
        finally:
            del _stepping[ssl]
            self._hears = None
        if self.error is not None:
            _lib.ERR_clear_error()
            try:
                raise self.error
            finally:
                self.error = None  # which would hold this frame, and be held by it
        if result == 1:
            return True
        if _lib.SSL_get_error(ssl, result) != _lib.SSL_ERROR_WANT_READ:
            SSL._raise_current_error()
        return False

    def sent(self) -> bytes:
        """What is there for the peer."""
        return _read(self._to_peer)

    def left(self) -> bytes:
        """What has come behind the handshake."""
        return _read(self._from_peer)

    # -- of one that is done

    def secrets(self) -> tuple[bytes, bytes]:
        """The first traffic secret of the client, and that of the server (RFC 8446 7.1)."""
        client = server = b""
        for line in self._secrets:
            secret = bytes.fromhex(line[line.rindex(b" ") + 1 :].decode())
            if line[:6] == b"CLIENT":
                client = secret
            else:
                server = secret
        self._secrets.clear()
        return client, server

    def protocol(self) -> bytes:
        """What ALPN has chosen; empty: nothing."""
        name, length = _ffi.new("unsigned char **"), _ffi.new("unsigned int *")
        _lib.SSL_get0_alpn_selected(self._ssl, name, length)
        return bytes(_ffi.buffer(name[0], length[0])) if length[0] else b""

    def suite(self) -> str:
        return _text(_lib.SSL_CIPHER_get_name(_lib.SSL_get_current_cipher(self._ssl)))

    def group(self) -> str:
        """The key exchange; empty where OpenSSL has no name for it."""
        return _text(_lib.SSL_get0_group_name(self._ssl))

    def peer_der(self) -> bytes:
        """The peer's certificate."""
        certificate = _lib.SSL_get_peer_certificate(self._ssl)
        try:
            return _der(certificate)
        finally:
            _lib.X509_free(certificate)

    def verified_chain(self) -> list[bytes]:
        """From the peer's certificate to its anchor, as it was verified."""
        chain = _lib.SSL_get0_verified_chain(self._ssl)
        if chain == _ffi.NULL:
            return []
        return [_der(_lib.sk_X509_value(chain, at)) for at in range(_lib.sk_X509_num(chain))]


_stepping: dict[Any, Engine] = {}
"""Those whose step this is, by the object of OpenSSL that a callback is given. One for each thread at most."""


def listen(context: SSL.Context, *, is_server: bool) -> None:
    """Have a context ask peers for certificates, choose HTTP/2 (a client: offer it) and tell engines what they need."""
    raw = context._context
    _lib.SSL_CTX_set_verify(raw, _VERIFY, _VERIFIED)
    _lib.SSL_CTX_set_keylog_callback(raw, _SECRET_MADE)
    if is_server:
        _lib.SSL_CTX_set_alpn_select_cb(raw, _ALPN_OFFERED, _ffi.NULL)
    else:
        context.set_alpn_protos([ALPN])


def words_of(error: int, der: bytes, depth: int, anchors: tuple[x509.Certificate, ...]) -> str:
    """Why a certificate is refused: also for one that OpenSSL can read, and nobody else."""
    try:
        return not_accepted(error, x509.load_der_x509_certificate(der), depth, anchors)
    except UNREADABLE as why:
        return unreadable(error, why)


def _text(name: Any) -> str:
    return "" if name == _ffi.NULL else str(_ffi.string(name).decode())


def _read(bio: Any) -> bytes:
    """All that is in it."""
    data = b""
    while True:
        room = _allocate("char[]", _READ_BYTES)
        size: int = _lib.BIO_read(bio, room, _READ_BYTES)
        if size <= 0:
            return data
        data += bytes(_ffi.buffer(room, size))
        if size < _READ_BYTES:
            return data


def _der(certificate: Any) -> bytes:
    bio = _lib.BIO_new(_lib.BIO_s_mem())
    try:
        if _lib.i2d_X509_bio(bio, certificate) != 1:
            SSL._raise_current_error()
        return _read(bio)
    finally:
        _lib.BIO_free(bio)


# -- what OpenSSL calls back. An exception cannot pass through it: the step fails, and raises it in the end.


def _on_verified(ok: int, store: Any) -> int:
    """A certificate of the peer's chain was looked at. Nothing is decided here: only why it is refused is told."""
    if ok:
        return 1
    ssl = _lib.X509_STORE_CTX_get_ex_data(store, _lib.SSL_get_ex_data_X509_STORE_CTX_idx())
    engine = _stepping[ssl]
    try:
        hears = engine._hears
        assert hears is not None, "it is in a step"
        error, depth = _lib.X509_STORE_CTX_get_error(store), _lib.X509_STORE_CTX_get_error_depth(store)
        der = _der(_lib.X509_STORE_CTX_get_current_cert(store))
        hears.note(fault_of(error), words_of(error, der, depth, hears.anchors))
    except Exception as problem:  # noqa: BLE001 - raised again by the step
        engine.error = problem
    return 0


def _on_secret(ssl: Any, text: Any) -> None:
    # The one place traffic secrets pass through as text: they go into the session and nowhere else.
    line = _ffi.string(text)
    if line.startswith(_TRAFFIC_SECRETS):
        _stepping[ssl]._secrets.append(line)


def _on_alpn(ssl: Any, chosen: Any, size: Any, offered: Any, length: int, _: Any) -> int:
    """`offered`: names, each behind its length (RFC 7301 3.1), of which OpenSSL has seen that they end together."""
    names, at = bytes(_ffi.buffer(offered, length)), 0
    listed = []
    while at < length:
        end = at + 1 + names[at]
        listed.append(names[at + 1 : end])
        at = end
    if ALPN in listed:
        chosen[0], size[0] = _CHOSEN, len(ALPN)
        return int(_lib.SSL_TLSEXT_ERR_OK)
    hears = _stepping[ssl]._hears
    if hears is not None:
        hears.note(Fault.NO_HTTP2, f"the peer offers the protocols {listed!r}; HBONE is {ALPN.decode()}")
    return int(_lib.SSL_TLSEXT_ERR_NOACK)


_CHOSEN = _ffi.new("unsigned char[]", ALPN)
_VERIFIED = _ffi.callback("int (*)(int, X509_STORE_CTX *)", _on_verified)
_SECRET_MADE = _ffi.callback("void (*)(const SSL *, const char *)", _on_secret)
_ALPN_OFFERED = _ffi.callback(
    "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
    _on_alpn,
    error=_lib.SSL_TLSEXT_ERR_ALERT_FATAL,
)
