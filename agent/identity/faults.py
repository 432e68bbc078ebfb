"""Why a handshake failed, in few words: what is counted. The sentences for people are elsewhere (`verify_words`)."""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """The value is the label of the metric. Of the certificates it is always the peer's that is meant."""

    # That of Enum is reckoned anew each time, in Python, and a crowd is counted by these.
    __hash__ = object.__hash__

    NOT_TLS = "not_tls"
    PROTOCOL = "protocol"
    """No common version or cipher, a message that is none, a broken record."""
    KEY_EXCHANGE = "key_exchange"
    """It has none of those that a policy allows (`--compliance-policy`)."""
    NO_HTTP2 = "no_http2"
    NO_CERTIFICATE = "no_certificate"
    UNTRUSTED = "untrusted"
    """Its certificate leads to no trust anchor of this end."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    REVOKED = "revoked"
    """Its issuer has revoked it, or an authority above it."""
    BAD_CERTIFICATE = "bad_certificate"
    """Not fit for use: usage, constraints, strength, an authority as its own, names that SPIFFE forbids."""
    WRONG_IDENTITY = "wrong_identity"
    REFUSED_BY_PEER = "refused_by_peer"
    """The peer said by an alert that it does not want this end, most often for its certificate."""
    TIMEOUT = "timeout"
    CLOSED = "closed"
    """The connection ended without a word."""
    SOURCE_CROWDED = "source_crowded"
    """Given up for a newer one from its address: too many there were unfinished."""
    CROWDED = "crowded"
    """Given up for a newer one from anywhere: too many were unfinished."""


# X509_V_ERR_* of OpenSSL's x509_vfy.h; every other one is a certificate that is not fit for use.
_OF_VERIFY_ERROR = {
    2: Fault.UNTRUSTED,
    7: Fault.UNTRUSTED,
    9: Fault.NOT_YET_VALID,
    10: Fault.EXPIRED,
    18: Fault.UNTRUSTED,
    19: Fault.UNTRUSTED,
    20: Fault.UNTRUSTED,
    21: Fault.UNTRUSTED,
}


def fault_of(verify_error: int) -> Fault:
    return _OF_VERIFY_ERROR.get(verify_error, Fault.BAD_CERTIFICATE)
