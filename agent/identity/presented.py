"""Who a certificate says its owner is, and whether that is whom this end of a connection means. Pure.

OpenSSL has accepted the certificate before: chain, validity and usage are not looked at here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from agent.identity.anchors import is_authority
from agent.model.identity import Identity, IdentityError

Check = Callable[[tuple[Identity, ...]], str]
"""Identities of a peer -> why they are not accepted, empty if they are."""


class Presented(NamedTuple):
    """SPIFFE identities in the order of the URI names, others skipped."""

    identities: tuple[Identity, ...]
    is_authority: bool


@lru_cache(maxsize=4096)
def presented_by(der: bytes) -> Presented:
    """What a certificate says. Raises ValueError for what is none."""
    certificate = x509.load_der_x509_certificate(der)
    return Presented(tuple(_identities(certificate)), is_authority(certificate))


def is_client_of(own: Identity) -> Check:
    """Some identity of the client lies in the trust domain of our own certificate (docs/WIRE.md#mutual-tls)."""

    def check(presented: tuple[Identity, ...]) -> str:
        if any(identity.trust_domain == own.trust_domain for identity in presented):
            return ""
        return f"the client presents {_listed(presented)}; want one in the trust domain {own.trust_domain!r}"

    return check


def is_server_of(accepted: tuple[Identity, ...]) -> Check:
    """Any identity of the server is any of the accepted."""

    def check(presented: tuple[Identity, ...]) -> str:
        if any(identity in accepted for identity in presented):
            return ""
        return f"the server presents {_listed(presented)}; expected {_listed(accepted)}"

    return check


def _identities(certificate: x509.Certificate) -> list[Identity]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = []
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        try:
            found.append(Identity.parse(uri))
        except IdentityError:
            continue
    return found


def _listed(identities: tuple[Identity, ...]) -> str:
    return " or ".join(str(i) for i in identities) or "no SPIFFE identity"
