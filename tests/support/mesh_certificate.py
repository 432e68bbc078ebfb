"""A certificate of a mesh's CA for somebody who is no pod of ours, asked for as an agent does.

    python -m tests.support.mesh_certificate ADDRESS ROOT TOKEN IDENTITY

Prints key and chain as PEM. A process of its own, as gRPC dials in the network namespace that its threads began in.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agent.identity.csr import make_request
from agent.lab.agents import CONTROL_PLANE_PORT, LabMesh
from agent.model.identity import Identity
from agent.rpc.ca_client import CaClient
from agent.rpc.endpoint import Endpoint
from redirect.netns import entered
from tests.support.certs import Issued

ROOT = Path(__file__).parents[2]


def issued(mesh: LabMesh, identity: str) -> Issued:
    """For the account of a pod on node-a, whoever is the control plane of that mesh."""
    node, state = mesh.topology.nodes["node-a"], mesh.state_dir
    where = (f"{node.addresses[0]}:{CONTROL_PLANE_PORT}", state / "root.pem", state / "tokens" / "node-a")
    argv = [sys.executable, "-m", "tests.support.mesh_certificate", *map(str, where), identity]
    with entered(node.netns):
        said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 0, said.stderr
    key = load_pem_private_key(said.stdout.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Issued(key, x509.load_pem_x509_certificates(said.stdout.encode()))


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
