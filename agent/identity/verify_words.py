"""Why a certificate is not accepted, for people: whose it is, what is wrong, the likely cause, what to check. Pure.

The numbers are X509_V_ERR_* of OpenSSL's x509_vfy.h. Names in certificates are a stranger's words: they are cut
short, and cannot write on a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cryptography import x509

from agent.identity.svid import UNREADABLE

NAME_CHARS = 100
ANCHORS_SHOWN = 3

COMPARE_ROOTS = "compare the root certificates that both nodes get"
_Words = Callable[[x509.Certificate, str], str]
"""(the certificate, the anchors in words) -> what is wrong with it, likely cause, what to check."""


def not_accepted(
    error: int, certificate: x509.Certificate, depth: int, anchors: Iterable[x509.Certificate]
) -> str:
    """One line for a peer's certificate that OpenSSL refused with `error`, `depth` steps above the leaf.

    `anchors` are those that the chain was checked against. Raises `svid.UNREADABLE`.
    """
    words = WORDS.get(error)
    if words is None:
        text = f"OpenSSL refuses it with verify error {error} (x509_vfy.h)"
    else:
        text = words(
            certificate, ", ".join(_few([subject(anchor) for anchor in anchors])) or "there are none"
        )
    if depth == 0:
        return f"the peer's certificate ({described(certificate)}) is not accepted: {text}"
    return f"the peer's certificate is not accepted for the authority {subject(certificate)} above it: {text}"


def unreadable(error: int, why: Exception) -> str:
    """The same for one that says nothing that could be told of it."""
    return (
        f"the peer's certificate is not accepted by OpenSSL (verify error {error}, x509_vfy.h), and cannot be read: "
        f"{harmless(str(why))}"
    )


def described(certificate: x509.Certificate) -> str:
    """Whom a certificate names: its URIs, else its subject."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, *UNREADABLE):
        uris = []
    return harmless(", ".join(uris)) if uris else subject(certificate)


def subject(certificate: x509.Certificate) -> str:
    return _name(certificate.subject)


def harmless(text: str) -> str:
    """A stranger's words, printable and not long."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:NAME_CHARS])
    return shown + "..." if len(text) > NAME_CHARS else shown


def _name(name: x509.Name) -> str:
    text = name.rfc4514_string()
    return f"'{harmless(text)}'" if text else "without a name"


def _few(texts: list[str]) -> list[str]:
    shown = texts[:ANCHORS_SHOWN]
    return [*shown, f"{len(texts) - len(shown)} more"] if len(texts) > len(shown) else shown


def _bad_signature(certificate: x509.Certificate, anchors: str) -> str:
    return (
        f"it is not signed by the key that {_name(certificate.issuer)} has here: was that CA made anew under its "
        f"old name? {COMPARE_ROOTS}"
    )


def _not_yet(certificate: x509.Certificate, anchors: str) -> str:
    start = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
    return f"it is not valid before {start}: compare the clocks of both nodes"


def _expired(certificate: x509.Certificate, anchors: str) -> str:
    return (
        f"it expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC: look why it was not renewed "
        "(status and log of the peer's agent), and compare the clocks of both nodes"
    )


def _self_signed(certificate: x509.Certificate, anchors: str) -> str:
    return "it is signed by itself and by no CA: does something outside the mesh listen at this address?"


def _foreign_root(certificate: x509.Certificate, anchors: str) -> str:
    return f"it is a root that is not among the trust anchors here ({anchors}): {COMPARE_ROOTS}"


def _no_issuer(certificate: x509.Certificate, anchors: str) -> str:
    return (
        f"its issuer {_name(certificate.issuer)} is neither among the trust anchors here ({anchors}) nor sent "
        f"along: {COMPARE_ROOTS}, and see whether the peer's CA leaves out an intermediate"
    )


def _plain(text: str) -> _Words:
    return lambda certificate, anchors: text


WORDS: dict[int, _Words] = {
    2: _no_issuer,
    6: _plain("the key of its issuer cannot be read"),
    7: _bad_signature,
    9: _not_yet,
    10: _expired,
    18: _self_signed,
    19: _foreign_root,
    20: _no_issuer,
    21: _no_issuer,
    23: _plain("it is revoked"),
    25: _plain("its chain is longer than an authority in it allows (path length): look at the peer's CA"),
    26: _plain("its extended key usage does not allow this role; a mesh needs clientAuth and serverAuth"),
    32: _plain("it signs others and its key usage does not allow that: look at the peer's CA"),
    34: _plain("it has a critical extension that OpenSSL does not know"),
    47: _plain("its name is not among those that an authority above it may certify (name constraints)"),
    48: _plain("its name is among those that an authority above it must not certify (name constraints)"),
    39: _plain("its key usage does not allow to sign handshakes: look at the peer's CA"),
    66: _plain("its key is too weak"),
    67: _plain("its key is too weak"),
    68: _plain("its signature uses a hash that is too weak"),
    79: _plain("it signs others and is not a CA certificate (basic constraints): look at the peer's CA"),
}
