"""The signing request, byte for byte what istiod expects (docs/WIRE.md#certificates)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.csr import make_request
from agent.identity.signer import SigningError
from agent.model.identity import Identity

WEB = Identity("cluster.local", "apps", "web")


def test_request_names_the_identity_and_nothing_else() -> None:
    key, csr_pem = make_request(WEB)
    csr = x509.load_pem_x509_csr(csr_pem.encode())
    assert list(csr.subject) == []
    [extension] = csr.extensions
    assert extension.critical
    assert list(extension.value) == [x509.UniformResourceIdentifier(str(WEB))]
    assert isinstance(key.curve, ec.SECP256R1)
    assert csr.public_key() == key.public_key()
    assert csr.is_signature_valid and csr.signature_hash_algorithm.name == "sha256"


def test_each_request_has_its_own_key() -> None:
    assert make_request(WEB).key.public_key() != make_request(WEB).key.public_key()


def test_the_key_is_not_printed() -> None:
    assert repr(make_request(WEB)) == "KeyRequest(key=<redacted>)"


def test_an_identity_no_certificate_can_hold_is_refused() -> None:
    with pytest.raises(SigningError, match="cannot be written into a certificate"):
        make_request(Identity("cluster.local", "apps", "wéb"))
