"""Key pairs and certificate signing requests of workloads (docs/WIRE.md#certificates). Keys stay in memory."""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.signer import SigningError
from agent.model.identity import Identity


class KeyRequest(NamedTuple):
    """A fresh key and the PEM that asks for its certificate. Prints without the key."""

    key: ec.EllipticCurvePrivateKey
    csr_pem: str

    def __repr__(self) -> str:
        return "KeyRequest(key=<redacted>)"


def make_request(identity: Identity) -> KeyRequest:
    """A new ECDSA P-256 key and its request: empty subject, one critical URI name, signed with SHA-256."""
    try:
        uri = x509.UniformResourceIdentifier(str(identity))
    except ValueError as error:
        raise SigningError(f"{identity} cannot be written into a certificate: {error}") from error
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyRequest(key, request.public_bytes(Encoding.PEM).decode())
