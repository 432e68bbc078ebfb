"""What SPIFFE demands of a certificate that says who somebody is (X509-SVID 2, 4 and 5.2). Pure.

The same for what a peer shows in a handshake and for what a CA has made for a workload of ours: exactly one URI, which
is an identity of this mesh, in a certificate that cannot sign others. Chain, validity and the other usages are judged
by those who verify.
"""

from __future__ import annotations

from cryptography import x509

from agent.identity.faults import Fault
from agent.model.identity import SCHEME, Identity, IdentityError

UNREADABLE = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate may raise that OpenSSL has no objection to: strangers make theirs themselves.

TypeError is `cryptography`'s word for a name of type BIT STRING, in a subject, an issuer or an alternative name.
"""


class NotAnSvid(Exception):
    """The certificate names nobody here, or must not: the text goes on after "the certificate"."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def identity_in(certificate: x509.Certificate) -> Identity:
    """Whose certificate this is. Raises NotAnSvid."""
    try:
        extensions = certificate.extensions
        _check_leaf(extensions)
        uris = _uris(extensions)
    except UNREADABLE as error:
        raise NotAnSvid(Fault.BAD_CERTIFICATE, f"has extensions that cannot be read: {error}") from error
    if len(uris) > 1:
        text = f"has {len(uris)} URI names; SPIFFE allows one: {', '.join(map(_shown, uris))}"
        raise NotAnSvid(Fault.BAD_CERTIFICATE, text)
    if not uris:
        raise NotAnSvid(Fault.WRONG_IDENTITY, "has no SPIFFE identity (no URI among its names)")
    try:
        return Identity.parse(uris[0])
    except IdentityError as error:
        # Another kind of name is merely nobody here; one that pretends to be SPIFFE is a trick, or a broken CA.
        fault = Fault.BAD_CERTIFICATE if uris[0].startswith(SCHEME) else Fault.WRONG_IDENTITY
        raise NotAnSvid(fault, f"has no SPIFFE identity: {error}") from error


def _check_leaf(extensions: x509.Extensions) -> None:
    """Whoever can sign may be anybody, so its key is not for connections."""
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise NotAnSvid(Fault.BAD_CERTIFICATE, "is that of a CA (basic constraints CA:TRUE)")
    except x509.ExtensionNotFound:
        pass  # absent is as good as false (RFC 5280 4.2.1.9)
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if usage.key_cert_sign or usage.crl_sign:
        which = "certificates (keyCertSign)" if usage.key_cert_sign else "revocations (cRLSign)"
        raise NotAnSvid(
            Fault.BAD_CERTIFICATE, f"may sign {which}, which SPIFFE forbids to that of a workload"
        )


def _uris(extensions: x509.Extensions) -> list[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _shown(uri: str) -> str:
    return uri if len(uri) <= 120 else uri[:120] + "…"
