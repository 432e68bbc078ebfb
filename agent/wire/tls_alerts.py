"""What the ends of a TLS connection tell each other about its end (RFC 8446 6), and what that means for people."""

from __future__ import annotations

from enum import IntEnum


class Alert(IntEnum):
    """Alert descriptions that are sent or named here."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    USER_CANCELED = 90
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


_OF_OUR_CERTIFICATE = {
    Alert.UNSUPPORTED_CERTIFICATE: "its kind or use does not suit the peer: look at its extended key usage",
    Alert.CERTIFICATE_REVOKED: "it is revoked there",
    Alert.CERTIFICATE_EXPIRED: "it has expired by the peer's clock: compare the clocks, and look at its renewal here",
    Alert.UNKNOWN_CA: (
        "its issuer is not among the peer's trust anchors: compare the root certificates that both nodes get"
    ),
    Alert.ACCESS_DENIED: "the peer does not let this identity in: compare the trust domains of both nodes",
    Alert.BAD_CERTIFICATE: (
        "it is damaged, not fit for use there, or not valid yet by the peer's clock: the peer's own log says which"
    ),
    Alert.CERTIFICATE_UNKNOWN: "the peer's own log says why",
}
_OTHERWISE = {
    Alert.HANDSHAKE_FAILURE: (
        "the peer and this end have no cipher suite or key exchange in common: HBONE is TLS 1.3, and a peer with a "
        "compliance policy takes X25519MLKEM768 alone"
    ),
    Alert.INSUFFICIENT_SECURITY: "it asks for a stronger key exchange or cipher than was agreed on",
    Alert.PROTOCOL_VERSION: "the peer speaks no TLS 1.3",
    Alert.CERTIFICATE_REQUIRED: "the peer got no certificate from here",
    Alert.NO_APPLICATION_PROTOCOL: "the peer speaks no HTTP/2 here: is it an HBONE port?",
}


def alert_name(code: int) -> str:
    return Alert(code).name.lower() if code in Alert._value2member_map_ else f"alert {code}"


def alert_meaning(code: int) -> str:
    """What a peer says by a fatal alert: who, what, what to check."""
    ending = f"the peer ended TLS with the alert {alert_name(code)}"
    if code in _OF_OUR_CERTIFICATE:
        return f"the peer does not accept our certificate ({alert_name(code)}): {_OF_OUR_CERTIFICATE[Alert(code)]}"
    if code in _OTHERWISE:
        return f"{ending}: {_OTHERWISE[Alert(code)]}"
    return ending
