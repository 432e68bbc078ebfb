"""Which certificates their issuers have revoked, and whether a peer's chain holds one of them. Pure.

A list counts for the certificates whose issuer's key has signed it, whatever names are in it: so nobody can revoke what
another authority issued, and authorities of one name are told apart. The signature is checked when a serial is found,
by the key of the very issuer that the handshake has verified: who is not on a list costs a look into each.
Anchors are not judged, as an anchor is trusted as it stands (RFC 5280 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from agent.identity.verify_words import described, subject
from agent.model.steps import Steps, each


class Certified(NamedTuple):
    """A certificate of a verified chain, with its serial in hexadecimal."""

    certificate: x509.Certificate
    serial: str


class RevocationList(NamedTuple):
    """One list (DER) with the serials on it, in hexadecimal and lower case, which were read before."""

    der: bytes
    serials: Sequence[str]


@lru_cache(maxsize=4096)
def certified(der: bytes) -> Certified:
    """The same object for the same bytes: connections of one peer share it."""
    certificate = x509.load_der_x509_certificate(der)
    return Certified(certificate, f"{certificate.serial_number:x}")


class Revocations:
    """The lists in force; one for all handshakes and connections of a worker. Until `replace` there are none."""

    def __init__(self) -> None:
        self._lists: Sequence[tuple[x509.CertificateRevocationList, Set[str]]] = ()
        self.refused_clients = 0
        self.refused_servers = 0
        """Handshakes refused and connections ended, by who the peer was."""

    def replace(self, lists: Sequence[RevocationList]) -> Steps[None]:
        """These and no others, from its end on. Raises ValueError for what is no list."""
        found = []
        for revoked in lists:
            serials = set[str]()
            yield from each(revoked.serials, serials.add)
            found.append((x509.load_der_x509_crl(revoked.der), serials))
            yield
        self._lists = found

    def refusal(self, chain: Sequence[Certified]) -> str:
        """Why a verified chain, from the leaf to its anchor, is not accepted; empty if it is."""
        for at in range(len(chain) - 1):
            for revoked, serials in self._lists:
                issuer = chain[at + 1].certificate
                if chain[at].serial in serials and is_signed_by(revoked, issuer):
                    return _words(chain[at], issuer, at)
        return ""

    def count(self, *, is_client: bool) -> None:
        """A peer was refused, or its connection ended: `is_client`, if it was the one that dialled."""
        if is_client:
            self.refused_clients += 1
        else:
            self.refused_servers += 1


def is_signed_by(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):  # a key of another kind than the signature
        return False


def _words(revoked: Certified, issuer: x509.Certificate, depth: int) -> str:
    whose = (
        f"the peer's certificate ({described(revoked.certificate)})"
        if depth == 0
        else f"the authority {subject(revoked.certificate)} above the peer's certificate"
    )
    return f"{whose} was revoked by {subject(issuer)} (serial {revoked.serial})"
