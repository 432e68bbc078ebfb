"""A certificate of a mesh's CA for somebody who is no pod of ours, asked for as an agent does.

    python -m tests.support.mesh_certificate ADDRESS ROOT TOKEN IDENTITY

Prints key and chain as PEM. A process of its own, as gRPC dials in the network namespace that its threads began in.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.identity.csr import make_request
from agent.model.identity import Identity
from agent.rpc.ca_client import CaClient
from agent.rpc.endpoint import Endpoint


async def main(address: str, root: str, token: str, name: str) -> None:
    endpoint = Endpoint(address, root, "istiod.istio-system.svc", Path(token), "Kubernetes")
    identity = Identity.parse(name)
    request = make_request(identity)
    async with CaClient(endpoint, lifetime_s=3600) as ca:
        chain = await ca.sign(identity, request.csr_pem)
    key = request.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    sys.stdout.write(key + "".join(chain))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
