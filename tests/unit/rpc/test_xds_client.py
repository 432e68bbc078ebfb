"""The discovery stream against a real gRPC server over TLS; time is the test's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import pytest

from agent.rpc.endpoint import Endpoint
from agent.rpc.retry import AWAY, SAYS_NO
from agent.rpc.xds_client import SILENT_S, Phase, XdsClient
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, Received, XdsDelta, make_node
from tests.support.clock import FakeClock, Sleeps
from tests.support.xds import PATIENCE_S, FakeControlPlane, MeshCA


@dataclass
class Applied:
    """A state that takes everything but the names in `refuse`."""

    resources: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)

    async def __call__(self, received: Received) -> Mapping[str, str]:
        for resource in received.updates:
            if resource.name not in self.refuse:
                self.resources[resource.name] = resource.body
        for name in received.removed:
            self.resources.pop(name, None)
        return {r.name: self.refuse[r.name] for r in received.updates if r.name in self.refuse}


@dataclass
class Counted:
    messages: list[tuple[str, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def message(self, type_url: str, body_bytes: int) -> None:
        self.messages.append((type_url, body_bytes))

    def terminated(self, reason: str) -> None:
        self.reasons.append(reason)


class Rig:
    def __init__(self, endpoint: Endpoint, limit: int = 1_000_000, silent_s: float = SILENT_S) -> None:
        self.applied = Applied()
        self.clock = FakeClock(1000.0)
        self.sleeps = Sleeps(self.clock, limit)
        self.counted = Counted()
        self.ups: list[float] = []
        node = make_node(ip="10.0.0.1", pod="ztun-x", namespace="istio-system", node_name="node-a")
        self.client = XdsClient(
            endpoint,
            XdsDelta(node),
            self.applied,
            clock=self.clock,
            rng=Random(1),
            sleep=self.sleeps,
            watch=self.counted,
            on_up=lambda: self.ups.append(self.clock.now),
            silent_s=silent_s,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[XdsClient]:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.client.run())
            yield self.client
            task.cancel()


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


@pytest.mark.parametrize(
    ("code", "cap_s"),
    [
        (grpc.StatusCode.OK, AWAY.cap_s),
        (grpc.StatusCode.CANCELLED, AWAY.cap_s),
        (grpc.StatusCode.UNAVAILABLE, AWAY.cap_s),
        (grpc.StatusCode.UNKNOWN, SAYS_NO.cap_s),
        (grpc.StatusCode.UNAUTHENTICATED, SAYS_NO.cap_s),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, SAYS_NO.cap_s),
    ],
    ids=str,
)
def test_back_off_grows_however_the_stream_ends(tmp_path: Path, code: grpc.StatusCode, cap_s: float) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path), limit=9)
            async with rig.running():
                for attempt in range(9):
                    stream = await plane.stream()
                    if attempt % 2:
                        # One that answers and ends at once is not a good stream either.
                        await stream.send(ADDRESS, nonce="n")
                    stream.end(code, "not ready")
                await rig.sleeps.exhausted.wait()
            delays = rig.sleeps.delays
            for number, delay in enumerate(delays):
                nominal = min(0.1 * 2**number, cap_s)
                assert 0.5 * nominal <= delay <= 1.5 * nominal
            assert len({d / min(0.1 * 2**n, cap_s) for n, d in enumerate(delays)}) > 5, "there is jitter"

    asyncio.run(body())


def test_a_long_good_stream_starts_the_back_off_anew(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            async with rig.running():
                for _ in range(6):
                    (await plane.stream()).end(grpc.StatusCode.UNKNOWN, "not ready")
                stream = await plane.stream()
                await stream.opening()
                await stream.send(ADDRESS)
                await stream.request()
                rig.clock.now += 1800
                stream.end(grpc.StatusCode.UNAVAILABLE, "max connection age")
                await plane.stream()
                assert rig.sleeps.delays[5] > 1.5
                assert rig.sleeps.delays[6] <= 0.15
                assert rig.counted.reasons[-1] == "Error"

    asyncio.run(body())


def closed_port() -> str:
    return "127.0.0.1:1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token": "stolen"}, "refuses our token: check {dir}/token, its audience and cluster Kubernetes"),
        ({"token": ""}, "token {dir}/token is empty"),
        ({"token": "two words"}, "is not one line of plain characters"),
        ({"token_file": Path("/nonexistent/token")}, "token /nonexistent/token cannot be read: No such file"),
        ({"roots": "/nonexistent/root.pem"}, "root certificate /nonexistent/root.pem cannot be read"),
        (
            {"roots": MeshCA().root_pem.decode()},
            "not signed by our root: check the root certificate given as text",
        ),
        ({"roots": "-----BEGIN CERTIFICATE-----\nrubbish"}, "holds no PEM certificate"),
        ({"server_name": "other.svc"}, "its certificate is not for other.svc: check the server name"),
        ({"server_name": ""}, "its certificate is not for 127.0.0.1"),
        ({"address": closed_port()}, "connection refused: is it running, is the port right?"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_wrong_set_up_is_said_in_one_line_and_retried_slowly(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path, **changes), limit=4)
            async with rig.running() as client:
                await rig.sleeps.exhausted.wait()
                status = client.status
                assert said.format(dir=tmp_path) in status.last_error
                assert "\n" not in status.last_error and "good-token" not in status.last_error
                assert status.phase is Phase.WAITING and status.failures == 4
                assert status.next_attempt == pytest.approx(rig.clock.now)
                assert rig.sleeps.delays[3] > rig.sleeps.delays[0]
                assert set(rig.counted.reasons) == {"ConnectionError"}

    asyncio.run(body())


def test_a_port_without_tls_is_recognised(tmp_path: Path) -> None:
    async def body() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        async with (
            FakeControlPlane(MeshCA()) as plane,
            await asyncio.start_server(answer, "127.0.0.1", 0) as plain,
        ):
            port = plain.sockets[0].getsockname()[1]
            rig = Rig(plane.endpoint(tmp_path, address=f"127.0.0.1:{port}"), limit=1)
            async with rig.running() as client:
                await rig.sleeps.exhausted.wait()
                assert "does not speak TLS there" in client.status.last_error

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


def test_a_new_token_on_disk_is_used_at_the_next_attempt(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA(), token="second") as plane:
            endpoint = plane.endpoint(tmp_path, token="first")
            rig = Rig(endpoint, limit=1)
            async with rig.running():
                await rig.sleeps.exhausted.wait()
                assert "refuses our token" in rig.client.status.last_error
                (tmp_path / "token").write_text("second")
                rig.sleeps.released.set()
                assert (await plane.stream()).metadata["authorization"] == "Bearer second"

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


def test_an_error_of_our_own_state_is_not_hidden(tmp_path: Path) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            rig = Rig(plane.endpoint(tmp_path))
            with pytest.raises(ExceptionGroup) as caught:
                async with rig.running():
                    rig.applied.resources = None  # type: ignore[assignment]
                    stream = await plane.stream()
                    await stream.opening()
                    await stream.send(ADDRESS, [("a", "1", b"")])
                    await asyncio.Event().wait()
            assert caught.group_contains(TypeError)

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
