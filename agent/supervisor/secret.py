"""A certificate with its key, on its way to a worker: DER in memory, over the private channel, nowhere else."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.channel import Secret
from agent.identity.bundle import Issued


def secret(issued: Issued) -> Secret:
    return Secret(
        identity=str(issued.identity),
        key=issued.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        chain=[certificate.public_bytes(Encoding.DER) for certificate in issued.chain],
        roots=[certificate.public_bytes(Encoding.DER) for certificate in issued.roots],
    )
