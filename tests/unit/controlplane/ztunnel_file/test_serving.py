"""A control plane whose mesh is a file of ztunnel's: discovery, certificates and reports as with manifests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.cli.control_plane import control_plane
from agent.controlplane.app import ControlPlane, Options
from agent.controlplane.state_dir import StateError
from agent.controlplane.translate.resources import ADDRESS_TYPE
from tests.support.controlplane import running, versions

LOCAL = """\
# As the examples of ztunnel have it: ports are numbers, and a policy need not say that it is no trial.
workloads:
- uid: cluster1//v1/Pod/default/local
  name: local
  namespace: default
  serviceAccount: default
  workloadIps: ["127.0.0.1"]
  protocol: HBONE
  node: local
  network: ""
  services:
    "default/example.com":
      80: 8080
- uid: cluster1//v1/Pod/default/far
  name: far
  namespace: default
  workloadIps: ["127.0.0.2"]
  protocol: TCP
  node: far
  services: {}
services:
- name: local
  namespace: default
  hostname: example.com
  vips: [/127.10.0.1, remote/127.10.0.2]
  ports:
    80: 8080
  subjectAltNames:
  - spiffe://cluster.local/ns/default/sa/local
policies:
- name: deny-9999
  namespace: default
  action: Allow
  scope: Namespace
  rules:
  - - - notDestinationPorts:
        - 9999
"""


def csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


UIDS = ["cluster1//v1/Pod/default/far", "cluster1//v1/Pod/default/local"]


def test_agents_get_what_it_says_and_certificates_for_the_pods_of_their_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "local.yaml"
        path.write_text(LOCAL)
        async with running(tmp_path, {}, ztunnel_config=path) as plane, plane.client("local") as client:
            addresses, policies = await client.start()
            assert sorted(addresses) == [*UIDS, "default/example.com"]
            assert list(policies) == ["default/deny-9999"]
            identity = "spiffe://cluster.local/ns/default/sa/default"
            assert len(await plane.certificate("local", identity, csr())) == 2
            with pytest.raises(grpc.aio.AioRpcError, match="no pod of that service account runs there"):
                await plane.certificate("elsewhere", identity, csr())
            assert await plane.report("local", "local", "default/local", "default/none") == ["default/none"]
            async with plane.client("far") as another:
                await another.subscribe(
                    ADDRESS_TYPE, names=("*", "/127.10.0.1"), resource_names_unsubscribe=("*",)
                )
                asked = await another.take(ADDRESS_TYPE)
            assert sorted(versions(asked)) == [*UIDS, "default/example.com"], "the Service, and its workloads"

    asyncio.run(scenario())


def test_a_file_that_is_wrong_is_not_served(tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"

    async def start() -> None:
        options = Options(
            manifests=tmp_path, state_dir=tmp_path / "s", listen="127.0.0.1:0", ztunnel_config=path
        )
        with pytest.raises(StateError) as caught:
            await ControlPlane.start(options)
        said.append(str(caught.value))

    said: list[str] = []
    asyncio.run(start())
    path.write_text(LOCAL.replace("protocol: TCP", "protocol: UDP"))
    asyncio.run(start())
    assert said[0] == f"--ztunnel-config: {path}: No such file or directory"
    assert said[1].startswith(f"--ztunnel-config: {path}:18: workloads[1].protocol: 'UDP' is not one of")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--manifests", "/tmp"], "one of them says what is served"),
        (["--kubernetes"], "one of them says what is served"),
        (["--service-cidr", "10.0.0.0/8"], "--service-cidr is for manifests"),
        (["--status-out", "/tmp/x"], "--status-out is for manifests"),
    ],
)
def test_options_that_cannot_go_with_it_are_refused(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(control_plane, ["--ztunnel-config", "/tmp/local.yaml", *arguments])
    assert done.exit_code == 2 and says in done.output
