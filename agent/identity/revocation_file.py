"""What a file of revocation lists says: PEM with any number of lists among other blocks, or one list as DER. Pure.

As ztunnel reads it, an empty file and one without a list revoke nobody. A list that could be understood wrongly is
refused by name, and the whole file with it: half of it would let in who is on the other half.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.revocations import RevocationList, is_signed_by
from agent.identity.verify_words import harmless

MAX_BYTES = 64 << 20
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_BLOCK = re.compile(re.escape(_BEGIN) + rb"[A-Za-z0-9+/=\s]+" + re.escape(_END))
# What changes nothing about who is revoked: names of the issuer's key, the list's number, where it is published.
_UNDERSTOOD = (x509.AuthorityKeyIdentifier, x509.CRLNumber, x509.IssuingDistributionPoint)


class BadList(ValueError):
    """The file cannot be used; the message says which list of it and why."""


class ReadList(NamedTuple):
    """A list as it will be told to workers; `issuer` in words, `next_update` where it says when another one is due."""

    revoked: RevocationList
    issuer: str
    next_update: datetime | None


def read_lists(content: bytes) -> tuple[ReadList, ...]:
    """Every list of a file. Raises BadList."""
    if len(content) > MAX_BYTES:
        raise BadList(f"it has {len(content)} bytes; more than {MAX_BYTES} are not read")
    if content[:1] == b"\x30":
        return (_read(content, 1, x509.load_der_x509_crl),)
    blocks = _BLOCK.findall(content)
    if content.count(_BEGIN) != len(blocks) or content.count(_END) != len(blocks):
        raise BadList("a list in it has no end, no begin, or is no base64: it is cut off or damaged")
    if not blocks and content.strip() and b"-----BEGIN " not in content:
        raise BadList("it is neither PEM nor DER")
    return tuple(_read(block, n, x509.load_pem_x509_crl) for n, block in enumerate(blocks, 1))


def is_signed_by_any(read: ReadList, authorities: Iterable[x509.Certificate]) -> bool:
    """Whether one of these authorities has signed it."""
    parsed = x509.load_der_x509_crl(read.revoked.der)
    return any(is_signed_by(parsed, authority) for authority in authorities)


def _read(data: bytes, number: int, load: object) -> ReadList:
    try:
        parsed: x509.CertificateRevocationList = load(data)  # type: ignore[operator]
        issuer = harmless(parsed.issuer.rfc4514_string()) or "nobody"
        _check(parsed)
        serials = tuple(f"{entry.serial_number:x}" for entry in parsed)
    except BadList as reason:
        raise BadList(f"list {number} of it, by '{issuer}', {reason}") from reason
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadList(f"list {number} of it cannot be read: {error}") from error
    return ReadList(
        RevocationList(parsed.public_bytes(Encoding.DER), serials), issuer, parsed.next_update_utc
    )


def _check(parsed: x509.CertificateRevocationList) -> None:
    # Of an algorithm that is not known here no signature could be checked: what it revokes would be let in.
    assert parsed.signature_hash_algorithm is None or parsed.signature_hash_algorithm.name
    for extension in parsed.extensions:
        value = extension.value
        if isinstance(value, x509.DeltaCRLIndicator):
            raise BadList("is a delta: name the file of whole lists")
        if isinstance(value, x509.IssuingDistributionPoint) and value.indirect_crl:
            raise BadList("is indirect (it speaks for other issuers): have each issuer sign its own")
        if extension.critical and not isinstance(value, _UNDERSTOOD):
            raise BadList(f"has a critical extension that is not known here ({extension.oid.dotted_string})")
