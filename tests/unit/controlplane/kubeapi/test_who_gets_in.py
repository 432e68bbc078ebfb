"""Whom the control plane of a cluster serves, by tokens and pods of the API, and by which authority."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.controlplane.translate.resources import ADDRESS_TYPE
from tests.support import kube
from tests.support.cluster_plane import NS, review, running


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "UNAUTHENTICATED"),
        (review("agent-1", "u-agent", audience="api"), "UNAUTHENTICATED"),
        ({**review("agent-1", "u-agent"), "authenticated": False}, "UNAUTHENTICATED"),
        (review("", ""), "UNAUTHENTICATED"),
        (review("agent-1", "u-agent", user="system:serviceaccount:demo:ztun-agent"), "PERMISSION_DENIED"),
        (review("agent-1", "another"), "UNAVAILABLE"),
        (review("web", "u-web"), "UNAVAILABLE"),
    ],
)
def test_nobody_gets_in_but_an_agent_that_runs(
    tmp_path: Path, api: kube.FakeApi, answer: dict[str, Any] | None, code: str
) -> None:
    if answer is not None:
        api.reviews["mine"] = answer

    async def scenario() -> str:
        async with running(tmp_path, api) as plane, plane.client(token="mine") as client:
            return (await client.call.code()).name

    assert asyncio.run(scenario()) == code


def test_an_agent_whose_pod_is_gone_is_let_in_no_more(tmp_path: Path, api: kube.FakeApi) -> None:
    async def scenario() -> str:
        async with running(tmp_path, api) as plane:
            async with plane.client(token="of-n1") as client:
                await client.start()
                api.delete("pods", "agent-1", NS)
                await client.take(ADDRESS_TYPE)
            async with plane.client(token="of-n1") as client:
                # It is refused before it has asked: a request that meets the refusal on its
                # way makes grpcio's client say INTERNAL, whatever the server said.
                return (await client.call.code()).name

    assert asyncio.run(scenario()) == "UNAVAILABLE"


def test_a_node_has_certificates_of_its_own_pods_by_one_authority_over_restarts(
    tmp_path: Path, api: kube.FakeApi
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    text = csr.public_bytes(Encoding.PEM).decode()
    of_web = "spiffe://cluster.local/ns/demo/sa/default"
    api.create(kube.pod("far", "shop", node="n2", address="10.10.0.7"))
    api.create(kube.namespace("shop"))

    async def scenario() -> str:
        async with running(tmp_path, api) as plane:
            chain = await plane.certificate("", of_web, text, token="of-n1")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await plane.certificate("", "spiffe://cluster.local/ns/shop/sa/default", text, token="of-n1")
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            return chain[-1]

    first, second = asyncio.run(scenario()), asyncio.run(scenario())
    assert first == second
    secret = api.get("secrets", "ztun-ca", NS)["data"]
    assert base64.b64decode(secret["root.pem"]).decode() == first
    assert not list((tmp_path / "state").rglob("*key*")), "the key is on no disk of the control plane"


def test_what_somebody_wrote_over_the_root_is_put_right(tmp_path: Path, api: kube.FakeApi) -> None:
    api.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio-ca-root-cert", "namespace": NS},
            "data": {"root-cert.pem": "another", "more": "stays"},
        }
    )

    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            await client.start()

    asyncio.run(scenario())
    data = api.get("configmaps", "istio-ca-root-cert", NS)["data"]
    assert data["more"] == "stays" and "BEGIN CERTIFICATE" in data["root-cert.pem"]


def test_agents_wait_while_their_tokens_may_not_be_reviewed(
    tmp_path: Path, api: kube.FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, api) as plane:
            api.refuse(403, "tokenreviews", times=10**6, message="cannot create tokenreviews")
            async with plane.client(token="of-n1") as client:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.start()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (
                "cannot create tokenreviews" in caplog.text
                and "the verbs create on tokenreviews" in caplog.text
            )
            api.refusals.clear()
            async with plane.client(token="of-n1") as client:
                await client.start()

    asyncio.run(scenario())
