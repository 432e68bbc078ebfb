"""Which certificates may be trust anchors. Pure.

An anchor need not be self-signed: an issuing CA under a root of its own is trusted as it stands. It must be an
authority, though: a leaf among the anchors would let its holder, and nobody else, be whoever the leaf names for as
long as the leaf is listed, whatever became of it.
"""

from __future__ import annotations

from cryptography import x509

from agent.identity.svid import UNREADABLE


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says of itself that it may sign others (RFC 5280 4.2.1.9, 4.2.1.3)."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        # Without basic constraints it says nothing; without a key usage it is restricted to nothing.
        return missing.oid == x509.KeyUsage.oid
    except UNREADABLE:
        return False
