"""The discovery stream against a real gRPC server over TLS; time is the test's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from agent.defects import DEFECT
from agent.rpc.xds_client import SAY_AGAIN_S, Phase
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION
from tests.support.xds import PATIENCE_S, FakeControlPlane, MeshCA
from tests.support.xds_client import Rig


def test_first_state_then_changes(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running() as client:
                stream = await plane.stream()
                opening = await stream.opening()
                assert list(opening) == [ADDRESS, AUTHORIZATION]
                node = opening[ADDRESS].node
                assert node.id == "ztunnel~10.0.0.1~ztun-x.istio-system~istio-system.svc.cluster.local"
                assert node.metadata["NODE_NAME"] == "node-a"
                assert node.metadata["NAMESPACE"] == "istio-system"
                assert stream.metadata["authorization"] == "Bearer good-token"
                assert stream.metadata["clusterid"] == "Kubernetes"

                await stream.send(ADDRESS, [("pod-a", "1", b"a")], nonce="n1")
                ack = await stream.request()
                assert (ack.type_url, ack.response_nonce) == (ADDRESS, "n1")
                assert not ack.HasField("node") and not ack.HasField("error_detail")
                assert rig.applied.resources == {"pod-a": b"a"}, "the ACK follows the apply"
                assert not client.synced.is_set(), "the policies are not there yet"

                await stream.send(AUTHORIZATION, nonce="n2")
                await stream.request()
                await client.synced.wait()
                assert client.status.phase is Phase.CONNECTED and client.status.is_synced
                assert client.status.connected_since == rig.clock.now and client.status.last_error == ""

                await stream.send(ADDRESS, [("pod-b", "1", b"b")], removed=["pod-a"], nonce="n3")
                assert (await stream.request()).response_nonce == "n3"
                assert rig.applied.resources == {"pod-b": b"b"}
                assert client.status.nonce == "n3" and client.status.responses == 3
            assert rig.counted.messages == [(ADDRESS, 1), (AUTHORIZATION, 0), (ADDRESS, 1)]
            assert rig.sleeps.delays == []

    asyncio.run(body())


def test_a_server_with_nothing_new_to_say_is_connected_all_the_same(tmp_path: Path) -> None:
    """It comes back, takes the versions that we hold, and keeps silent: the state is current, not stale."""

    async def body() -> None:
        ca = MeshCA()
        async with FakeControlPlane(ca) as plane:
            rig = Rig(plane.endpoint(tmp_path), silent_s=0.05)
            async with rig.running() as client:
                stream = await plane.stream()
                await stream.opening()
                for type_url in (ADDRESS, AUTHORIZATION):
                    await stream.send(type_url, nonce=type_url)
                    await stream.request()
                await client.synced.wait()
                assert len(rig.ups) == 1
                stream.end(grpc.StatusCode.UNAVAILABLE, "restarting")
                again = await plane.stream()
                await again.opening()
                async with asyncio.timeout(PATIENCE_S):
                    while client.status.phase is not Phase.CONNECTED:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert client.status.connected_since is not None and len(rig.ups) == 2
                await again.send(ADDRESS, [("pod-a", "1", b"a")], nonce="late")
                assert (await again.request()).response_nonce == "late", "and it may still speak up"

    asyncio.run(body())


def test_a_server_that_refuses_us_is_never_taken_for_a_silent_one(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path, token="stolen"), limit=3)
            async with rig.running() as client:
                await rig.sleeps.exhausted.wait()
                assert client.status.phase is Phase.WAITING and client.status.connected_since is None
            assert rig.ups == []
            assert set(rig.counted.reasons) == {"ConnectionError"}

    asyncio.run(body())


def test_a_failure_that_repeats_is_a_line_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> float:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path, token="stolen"), limit=25)
            began = rig.clock.now
            async with rig.running():
                await rig.sleeps.exhausted.wait()
            return rig.clock.now - began

    took_s = asyncio.run(body())
    said = [record.getMessage() for record in caplog.records if "next attempt" in record.getMessage()]
    assert took_s > SAY_AGAIN_S and 2 <= len(said) <= 2 + took_s / SAY_AGAIN_S
    assert "; 1 in a row, next attempt in 0." in said[0] and "in a row" in said[-1]


def test_refused_resource_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            rig.applied.refuse = {"bad": "port 70000 is not a port", "worse": "no address"}
            async with rig.running() as client:
                stream = await plane.stream()
                await stream.opening()
                await stream.send(
                    ADDRESS, [("bad", "1", b""), ("good", "7", b"g"), ("worse", "1", b"")], nonce="n1"
                )
                nack = await stream.request()
                assert nack.response_nonce == "n1"
                assert nack.error_detail.message == "bad: port 70000 is not a port; worse: no address"
                assert rig.applied.resources == {"good": b"g"}
                await stream.send(AUTHORIZATION, nonce="n2")
                await stream.request()
                await client.synced.wait()
                assert client.status.refused == rig.applied.refuse

                stream.end()
                stream = await plane.stream()
                opening = await stream.opening()
                assert dict(opening[ADDRESS].initial_resource_versions) == {"good": "7"}
                rig.applied.refuse = {}
                await stream.send(ADDRESS, [("bad", "2", b"x")], removed=[], nonce="n3")
                await stream.request()
                await client.synced.wait()
                assert client.status.refused == {}

    asyncio.run(body())


def test_resumes_after_the_server_dies_mid_stream(tmp_path: Path) -> None:
    async def body() -> None:
        ca = MeshCA()
        async with FakeControlPlane(ca) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running() as client:
                stream = await plane.stream()
                await stream.opening()
                await stream.send(ADDRESS, [("pod-a", "v1", b"a"), ("pod-b", "v2", b"b")])
                await stream.send(AUTHORIZATION, [("apps/all", "", b"p")])
                await client.synced.wait()
                await plane.__aexit__(None, None, None)
                async with FakeControlPlane(ca, port=int(plane.address.rpartition(":")[2])) as second:
                    stream = await second.stream()
                    opening = await stream.opening()
                    assert dict(opening[ADDRESS].initial_resource_versions) == {"pod-a": "v1", "pod-b": "v2"}
                    assert dict(opening[AUTHORIZATION].initial_resource_versions) == {"apps/all": ""}
                    assert opening[ADDRESS].node.id, "every stream begins with the node"
                    assert client.synced.is_set(), "the last state goes on serving"
                    await stream.send(ADDRESS, removed=["pod-b"])
                    await stream.request()
                    assert rig.applied.resources == {"pod-a": b"a", "apps/all": b"p"}
            assert rig.counted.reasons[0] in ("Error", "Complete")
            assert all(delay > 0 for delay in rig.sleeps.delays)

    asyncio.run(body())


def test_a_response_that_is_not_protobuf_ends_the_stream_with_a_reason(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path), limit=1)
            async with rig.running() as client:
                await (await plane.stream()).send_raw(b"\xff\xff\xff")
                await rig.sleeps.exhausted.wait()
                assert "its response is not protobuf" in client.status.last_error

    asyncio.run(body())


def test_a_type_never_asked_for_is_acknowledged_and_ignored(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running():
                stream = await plane.stream()
                await stream.opening()
                await stream.send("type.googleapis.com/other", [("x", "1", b"x")], nonce="odd")
                ack = await stream.request()
                assert (ack.type_url, ack.response_nonce) == ("type.googleapis.com/other", "odd")
                assert not ack.HasField("error_detail") and rig.applied.resources == {}

    asyncio.run(body())


def test_push_of_a_whole_large_mesh(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running():
                stream = await plane.stream()
                await stream.opening()
                names = [f"Kubernetes//Pod/namespace-{i % 50}/deployment-{i}" for i in range(20_000)]
                await stream.send(
                    ADDRESS, [(n, str(i), b"x" * 400) for i, n in enumerate(names)], nonce="big"
                )
                assert (await stream.request()).response_nonce == "big"
                assert len(rig.applied.resources) == 20_000
                stream.end()
                opening = await (await plane.stream()).opening()
                assert len(opening[ADDRESS].initial_resource_versions) == 20_000

    asyncio.run(body())


def test_a_fault_of_our_own_refuses_the_response_and_the_stream_goes_on(tmp_path: Path) -> None:
    """What ends one agent would end every one of them, and again after its restart."""

    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running() as client:
                rig.applied.resources = None  # type: ignore[assignment]
                stream = await plane.stream()
                await stream.opening()
                await stream.send(ADDRESS, [("a", "1", b"")], removed=["b"])
                nack = await stream.request()
                assert nack.error_detail.message.count(f"{DEFECT}: TypeError: ") == 2
                assert client.status.refused.keys() == {"a", "b"}
                assert client.status.defect.startswith(
                    "2 resources of the control plane cannot be used, by a defect"
                )
                rig.applied.resources = {}
                await stream.send(ADDRESS, [("a", "1", b"a")], removed=["b"])
                assert not (await stream.request()).HasField("error_detail")
                assert rig.applied.resources == {"a": b"a"} and not client.status.defect

    asyncio.run(body())


def test_a_fault_of_our_own_beside_the_state_ends_the_stream_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running() as client:
                with monkeypatch.context() as broken:
                    broken.setattr(rig.counted, "message", None)
                    await (await plane.stream()).send(ADDRESS, [("a", "1", b"a")])
                    stream = await plane.stream()
                assert f"the stream cannot go on: {DEFECT}: TypeError" in client.status.last_error
                await stream.opening()
                await stream.send(ADDRESS, [("a", "1", b"a")])
                await stream.request()
                assert rig.applied.resources == {"a": b"a"}

    asyncio.run(body())


def test_cancelling_ends_the_stream(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running():
                stream = await plane.stream()
                await stream.opening()
            assert rig.counted.reasons == [], "an end of our own is no failure"

    asyncio.run(body())
