"""Certificates over a real gRPC call and TLS: what is asked, what is refused, files that change on disk."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from agent.identity.bundle import read_answer
from agent.identity.csr import make_request
from agent.identity.signer import SigningError
from agent.model.identity import Identity
from agent.rpc.ca_client import CaClient
from agent.rpc.endpoint import Endpoint
from tests.support.xds import PATIENCE_S, FakeControlPlane, MeshCA

WEB = Identity("cluster.local", "apps", "web")
CALLS = json.loads((Path(__file__).parents[2] / "vectors/ca/calls.json").read_text())["calls"]
REFUSALS = {
    (c["answer"]["code"], c["answer"]["message"]) for c in CALLS if c["answer"]["code"] not in ("OK", None)
}


async def sign(endpoint: Endpoint, identity: Identity = WEB, deadline_s: float = 10.0) -> tuple[str, ...]:
    async with (
        asyncio.timeout(PATIENCE_S),
        CaClient(endpoint, lifetime_s=3600, deadline_s=deadline_s) as client,
    ):
        return await client.sign(identity, make_request(identity).csr_pem)


def test_asks_as_a_node_proxy_does(tmp_path: Path) -> None:
    async def body() -> None:
        seen = []

        async def on_csr(request: object, context: object) -> list[str]:
            seen.append(request)
            return ["leaf", "root"]

        async with FakeControlPlane(MeshCA(), on_csr=on_csr) as plane:
            answer = await sign(plane.endpoint(tmp_path, headers=(("X-Tenant", "blue"),)))
            assert answer == ("leaf", "root")
            [request], [metadata] = seen, plane.ca_metadata
            assert request.validity_duration == 3600
            assert dict(request.metadata) == {"ImpersonatedIdentity": str(WEB)}
            assert x509.load_pem_x509_csr(request.csr.encode()).is_signature_valid
            assert metadata["authorization"] == "Bearer good-token"
            assert metadata["clusterid"] == "Kubernetes"
            assert metadata["x-tenant"] == "blue"

    asyncio.run(body())


def test_its_answer_makes_credentials(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            FakeControlPlane(MeshCA()) as plane,
            CaClient(plane.endpoint(tmp_path), lifetime_s=3600) as client,
        ):
            key, csr_pem = make_request(WEB)
            issued = read_answer(await client.sign(WEB, csr_pem), WEB, key, time.time())
            assert issued.roots == (plane.ca.root,)
            assert issued.not_after - issued.not_before == pytest.approx(3720, abs=2)

    asyncio.run(body())


@pytest.mark.parametrize(("code", "message"), sorted(REFUSALS), ids=lambda v: str(v)[:40])
def test_refusals_recorded_from_istiod_name_identity_and_reason(
    tmp_path: Path, code: str, message: str
) -> None:
    async def body() -> None:
        async def on_csr(request: object, context: grpc.aio.ServicerContext) -> list[str]:
            await context.abort(grpc.StatusCode[code], message)

        async with FakeControlPlane(MeshCA(), on_csr=on_csr) as plane:
            with pytest.raises(SigningError) as caught:
                await sign(plane.endpoint(tmp_path))
            text = str(caught.value)
            assert str(WEB) in text and plane.address in text and code in text
            assert " ".join(message.split())[:200] in text and "\n" not in text
            assert caught.value.is_transient is (code == "UNAUTHENTICATED" and "impersonation" in message)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token": "stolen"}, "refuses our token"),
        ({"token_file": Path("/nonexistent")}, "token /nonexistent cannot be read"),
        ({"roots": MeshCA().root_pem.decode()}, "not signed by our root"),
        ({"roots": "/nonexistent"}, "root certificate /nonexistent cannot be read"),
        ({"server_name": "other.svc"}, "not for other.svc"),
        ({"address": "127.0.0.1:1"}, "connection refused"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_wrong_set_up_is_one_clear_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            with pytest.raises(SigningError) as caught:
                await sign(plane.endpoint(tmp_path, **changes))
            assert said in str(caught.value) and "\n" not in str(caught.value)
            assert caught.value.is_transient is (said == "connection refused")

    asyncio.run(body())


def test_a_ca_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async def body() -> None:
        async def on_csr(request: object, context: object) -> list[str]:
            await asyncio.Event().wait()
            raise AssertionError

        async with FakeControlPlane(MeshCA(), on_csr=on_csr) as plane:
            with pytest.raises(SigningError, match="did not answer in time"):
                await sign(plane.endpoint(tmp_path), deadline_s=0.2)

    asyncio.run(body())


def test_replaced_roots_are_used_by_the_next_call_and_not_before_they_are_whole(tmp_path: Path) -> None:
    async def body() -> None:
        old, new = MeshCA(), MeshCA("next.example")
        async with FakeControlPlane(old) as plane:
            endpoint = plane.endpoint(tmp_path)
            async with asyncio.timeout(PATIENCE_S), CaClient(endpoint, lifetime_s=60) as client:
                csr_pem = make_request(WEB).csr_pem
                await client.sign(WEB, csr_pem)
                Path(endpoint.roots).write_text("half a file")
                assert await client.sign(WEB, csr_pem), "unusable roots leave the old channel in place"
                # As Kubernetes does it: another file, swapped in by a rename.
                (tmp_path / "next.pem").write_bytes(new.root_pem)
                (tmp_path / "next.pem").rename(endpoint.roots)
                with pytest.raises(SigningError, match="not signed by our root"):
                    await client.sign(WEB, csr_pem)
                Path(endpoint.roots).write_bytes(new.root_pem + old.root_pem)
                assert await client.sign(WEB, csr_pem)

    asyncio.run(body())


def test_a_call_under_way_survives_a_change_of_roots(tmp_path: Path) -> None:
    async def body() -> None:
        arrived: asyncio.Queue[object] = asyncio.Queue()
        go = asyncio.Event()

        async def on_csr(request: object, context: object) -> list[str]:
            arrived.put_nowait(request)
            await go.wait()
            return ["leaf", "root"]

        async with FakeControlPlane(MeshCA(), on_csr=on_csr) as plane:
            endpoint = plane.endpoint(tmp_path)
            csr_pem = make_request(WEB).csr_pem
            async with (
                CaClient(endpoint, lifetime_s=60) as client,
                asyncio.timeout(PATIENCE_S),
                asyncio.TaskGroup() as tasks,
            ):
                first = tasks.create_task(client.sign(WEB, csr_pem))
                await arrived.get()
                Path(endpoint.roots).write_bytes(plane.ca.root_pem + MeshCA().root_pem)
                second = tasks.create_task(client.sign(WEB, csr_pem))
                await arrived.get()
                go.set()
            assert first.result() == second.result() == ("leaf", "root")

    asyncio.run(body())


def test_works_again_once_the_ca_is_back(tmp_path: Path) -> None:
    async def body() -> None:
        ca = MeshCA()
        async with FakeControlPlane(ca) as plane:
            endpoint = plane.endpoint(tmp_path)
        async with CaClient(endpoint, lifetime_s=60) as client:
            csr_pem = make_request(WEB).csr_pem
            with pytest.raises(SigningError, match="connection refused"):
                await client.sign(WEB, csr_pem)
            port = int(plane.address.rpartition(":")[2])
            async with FakeControlPlane(ca, port=port), asyncio.timeout(PATIENCE_S):
                # gRPC itself waits up to half a second before it dials the same channel again.
                while True:
                    try:
                        assert len(await client.sign(WEB, csr_pem)) == 2
                        break
                    except SigningError:
                        await asyncio.sleep(0.02)

    asyncio.run(body())
