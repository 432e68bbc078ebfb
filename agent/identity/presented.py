"""Who a peer's certificate says it is, and whether that is whom this end of a connection means. Pure.

OpenSSL has accepted the certificate before: chain, validity and usage are not looked at here. What SPIFFE demands of it
is (`svid`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from agent.identity.faults import Fault
from agent.identity.svid import NotAnSvid, identity_in
from agent.model.identity import Identity

Check = Callable[[Identity], str]
"""The identity of a peer -> why it is not accepted, empty if it is."""


class Nobody(NamedTuple):
    """Why a certificate names nobody; the text goes on after "the certificate"."""

    fault: Fault
    text: str


@lru_cache(maxsize=4096)
def presented_by(der: bytes) -> Identity | Nobody:
    """Whom a certificate names. Raises ValueError for what is no certificate."""
    try:
        return identity_in(x509.load_der_x509_certificate(der))
    except NotAnSvid as reason:
        return Nobody(reason.fault, str(reason))
    except x509.InvalidVersion as error:
        return Nobody(Fault.BAD_CERTIFICATE, f"cannot be read: {error}")


def is_client_of(own: Identity) -> Check:
    """The client's identity lies in the trust domain of our own certificate (docs/WIRE.md#mutual-tls)."""

    def check(presented: Identity) -> str:
        if presented.trust_domain == own.trust_domain:
            return ""
        return f"the client presents {presented}; want one in the trust domain {own.trust_domain!r}"

    return check


def is_server_of(accepted: tuple[Identity, ...]) -> Check:
    """The server's identity is one of the accepted."""

    def check(presented: Identity) -> str:
        if presented in accepted:
            return ""
        listed = " or ".join(map(str, accepted)) or "nobody"
        return f"the server presents {presented}; expected {listed}"

    return check
