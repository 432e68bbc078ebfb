"""From a certificate authority's answer to credentials, or a reason why it cannot be used. Pure.

The answer is checked before anything relies on it: it names the identity that was asked for, belongs to our
key, is valid now, and its chain leads to the roots that came with it. The order of the answer's elements is
docs/WIRE.md#certificates: leaf, intermediates, and the last element holds the roots, several perhaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import verification

from agent.identity.anchors import is_authority
from agent.identity.signer import SigningError
from agent.identity.svid import NotAnSvid, identity_in
from agent.identity.verify_words import described, subject
from agent.model.identity import Identity


@dataclass(frozen=True, slots=True)
class Issued:
    """A workload's key, certificate and trust anchors. Times are seconds since the epoch.

    `chain` is what a peer is shown: the leaf and the intermediates, never a root. Lives in memory only.
    """

    identity: Identity
    key: EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    roots: tuple[x509.Certificate, ...] = field(repr=False)
    not_before: float
    not_after: float
    """When it ends, or the first authority that it rests on."""
    ended_by: str = ""
    """The name of that authority; empty where none ends before the leaf."""
    not_anchors: tuple[str, ...] = ()
    """Names of certificates that came as roots, cannot be any, and are left out of `roots`."""


def read_answer(
    answer: Sequence[str], identity: Identity, key: EllipticCurvePrivateKey, now: float
) -> Issued:
    """Check a CA's answer and make it usable. `now`: seconds since the epoch. Raises SigningError."""
    chain, sent_roots = _parse(answer)
    roots, not_anchors = _anchors(sent_roots)
    leaf = chain[0]
    _check_names(leaf, identity)
    if leaf.public_key() != key.public_key():
        raise SigningError(f"the certificate the CA sent for {identity} belongs to another key")
    _check_time(leaf, now)
    first = min(_check_chain(chain, roots, now), key=lambda each: each.not_valid_after_utc)
    return Issued(
        identity,
        key,
        chain,
        roots,
        leaf.not_valid_before_utc.timestamp(),
        first.not_valid_after_utc.timestamp(),
        subject(first) if first.not_valid_after_utc < leaf.not_valid_after_utc else "",
        not_anchors,
    )


def _parse(answer: Sequence[str]) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    if not answer:
        raise SigningError("the CA's answer is empty")
    if len(answer) == 1:
        raise SigningError("the CA's answer has a certificate but no root: peers could not be verified")
    chain = tuple(_certificates(pem, f"certificate {n}")[0] for n, pem in enumerate(answer[:-1], 1))
    return chain, tuple(dict.fromkeys(_certificates(answer[-1], "last element (the roots)")))


def _certificates(pem: str, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise SigningError(f"{what} in the CA's answer is not a PEM certificate: {error}") from error


def _anchors(sent: tuple[x509.Certificate, ...]) -> tuple[tuple[x509.Certificate, ...], tuple[str, ...]]:
    """Those that may be trust anchors, and the names of those that may not."""
    roots = tuple(root for root in sent if is_authority(root))
    if not roots:
        raise SigningError(
            f"none of the {len(sent)} root(s) in the CA's answer is a CA certificate (basic constraints): "
            f"{', '.join(map(described, sent))}; look at what the CA gives as its root"
        )
    return roots, tuple(described(root) for root in sent if not is_authority(root))


def _check_names(leaf: x509.Certificate, identity: Identity) -> None:
    try:
        named = identity_in(leaf)
    except NotAnSvid as reason:
        raise SigningError(
            f"the certificate the CA sent for {identity} {reason}: peers would refuse it; look at what the CA issues"
        ) from reason
    if named != identity:
        raise SigningError(f"the CA was asked for {identity} but certifies {named}")


def _check_time(leaf: x509.Certificate, now: float) -> None:
    """Too early and too late have different causes."""
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < start.timestamp():
        raise SigningError(
            f"the certificate the CA sent is not valid before {start:%Y-%m-%d %H:%M:%S} UTC, "
            f"{start.timestamp() - now:.0f} s from now: is the clock here behind the CA's? compare them"
        )
    if now >= end.timestamp():
        raise SigningError(
            f"the certificate the CA sent expired at {end:%Y-%m-%d %H:%M:%S} UTC, {now - end.timestamp():.0f} s ago: "
            "is the clock here ahead of the CA's? compare them"
        )


def _check_chain(
    chain: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...], now: float
) -> Sequence[x509.Certificate]:
    """Signatures, validity, and that every issuer is an authority; the web's further rules do not apply.

    Answers the path found, from the leaf to its anchor, which need not be self-signed.
    """
    authorities = verification.ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(datetime.fromtimestamp(now, UTC))
        .extension_policies(ca_policy=authorities, ee_policy=verification.ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        return verifier.verify(chain[0], list(chain[1:])).chain
    except (verification.VerificationError, ValueError) as error:
        raise SigningError(
            f"the certificate the CA sent does not chain to the {len(roots)} root(s) it sent: {error}"
        ) from error
