"""The whole control plane: real files, real TLS on loopback, real gRPC. Every wait is for a push that must come."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import grpc
import pytest

from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.pb import workload_pb2, xds_pb2
from tests.support.controlplane import NAMESPACE, deny, pod, running, versions
from tests.support.enrolment import until

WEB = pod("web-0", "node-a", "10.10.0.5")


UID = "Kubernetes//Pod/demo/web-0"


def workload(response: xds_pb2.DeltaDiscoveryResponse, name: str = UID) -> workload_pb2.Workload:
    [resource] = [r for r in response.resources if r.name == name]
    return workload_pb2.Address.FromString(resource.resource.value).workload


def status(state: Path) -> dict:
    return json.loads((state / "status.json").read_text())


def test_a_change_of_a_file_is_pushed_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, {"ns.yaml": NAMESPACE, "web.yaml": WEB}) as plane,
            plane.client() as client,
        ):
            addresses, policies = await client.start()
            assert (list(addresses), policies) == ([UID], {})
            plane.write("ns.yaml", NAMESPACE.replace("}", ", labels: {a: b}}"))  # means nothing to the mesh
            plane.write("more.yaml", pod("web-1", "node-b", "10.10.0.6"))
            response = await client.take(ADDRESS_TYPE)
            assert list(versions(response)) == ["Kubernetes//Pod/demo/web-1"]
            (plane.manifests / "more.yaml").unlink()
            response = await client.take(ADDRESS_TYPE)
            assert (list(response.resources), list(response.removed_resources)) == (
                [],
                ["Kubernetes//Pod/demo/web-1"],
            )

    asyncio.run(scenario())


def test_a_name_that_is_no_text_ends_nothing(tmp_path: Path) -> None:
    """The library that brings the kernel's notices fails of such a name."""

    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane, plane.client() as client:
            await client.start()
            Path(os.fsdecode(bytes(plane.manifests) + b"/\xff.yaml")).write_text(deny("d"))
            await until(lambda: "rename it" in str(status(plane.state)["errors"]))
            [error] = status(plane.state)["errors"]
            assert (error["effect"], error["outcome"]) == ("it is not in force", "left_out")
            plane.write("b.yaml", deny("d"))
            response = await client.take(AUTHORIZATION_TYPE)
            assert list(versions(response)) == ["demo/d"]
            plane.manifests.rename(tmp_path / "away")
            await until(lambda: "everything of it stays" in str(status(plane.state)["errors"]))

    asyncio.run(scenario())


def test_changes_are_seen_where_no_notices_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*args: object, **kwargs: object) -> object:
        raise OSError(28, "inotify limit reached")

    monkeypatch.setattr("agent.controlplane.read.notices.awatch", refuses)
    monkeypatch.setattr("agent.controlplane.following.LOOK_S", 0.01)

    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane, plane.client() as client:
            await client.start()
            plane.write("b.yaml", deny("d"))
            response = await client.take(AUTHORIZATION_TYPE)
            assert list(versions(response)) == ["demo/d"]

    asyncio.run(scenario())
    assert caplog.text.count("no notices of changed manifests") == 1 and "inotify limit" in caplog.text


def test_a_broken_file_is_named_and_its_last_good_version_stays_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane, plane.client() as client:
            await client.start()
            plane.write("web.yaml", NAMESPACE + WEB.replace("podIPs", "podIPz"))
            plane.write("more.yaml", pod("web-1", "node-b", "10.10.0.6"))
            response = await client.take(ADDRESS_TYPE)
            assert list(versions(response)) == ["Kubernetes//Pod/demo/web-1"]
            assert list(response.removed_resources) == []
            await until(lambda: status(plane.state)["errors"])
            [error] = status(plane.state)["errors"]
            assert (error["file"], error["line"], error["document"], error["field"]) == (
                "web.yaml",
                9,
                2,
                "status.podIPs",
            )
            plane.write("web.yaml", NAMESPACE + WEB.replace("10.10.0.5", "10.10.0.7"))
            response = await client.take(ADDRESS_TYPE)
            assert workload(response).addresses == [bytes([10, 10, 0, 7])]
            await until(lambda: status(plane.state)["errors"] == [])

    asyncio.run(scenario())


def test_a_restart_beside_a_broken_file_serves_the_last_good_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane, plane.client() as client:
            addresses, _ = await client.start()
        async with running(tmp_path, {"web.yaml": "{"}) as plane, plane.client() as client:
            assert (await client.start())[0] == addresses
            assert status(plane.state)["errors"][0]["file"] == "web.yaml"

    asyncio.run(scenario())


def test_nothing_is_served_before_the_manifests_were_read_whole_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB, "policy.yaml": "{"}) as plane:
            async with plane.client() as client:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.receive()
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await plane.certificate("node-a", "spiffe://cluster.local/ns/demo/sa/web", "")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert status(plane.state)["is_serving"] is False

    asyncio.run(scenario())


def test_a_stream_that_comes_back_gets_the_differences(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = {"web.yaml": WEB, "more.yaml": pod("web-1", "node-b", "10.10.0.6"), "deny.yaml": deny("all")}
        async with running(tmp_path, files) as plane:
            async with plane.client() as client:
                addresses, policies = await client.start()
            async with plane.client() as client:
                await client.subscribe(ADDRESS_TYPE, addresses)
                await client.subscribe(AUTHORIZATION_TYPE, policies)
                for type_url in (AUTHORIZATION_TYPE, ADDRESS_TYPE):
                    response = await client.take(type_url)
                    assert not response.resources and not response.removed_resources
            for node in ("node-a", "node-b"):
                await plane.report(node, node)
            async with plane.client() as client:
                stale = {
                    UID: "stale",
                    "Kubernetes//Pod/demo/web-1": "",
                    "demo/gone.demo.svc.cluster.local": "x",
                }
                await client.subscribe(ADDRESS_TYPE, stale, ("*",))
                await client.subscribe(AUTHORIZATION_TYPE, {"demo/gone": "x"})
                assert versions(await client.take(AUTHORIZATION_TYPE)) == policies
                response = await client.take(ADDRESS_TYPE)
                assert versions(response) == addresses
                assert list(response.removed_resources) == ["demo/gone.demo.svc.cluster.local"]
                response = await client.take(AUTHORIZATION_TYPE)
                assert list(response.removed_resources) == ["demo/gone"]

    asyncio.run(scenario())


def test_versions_outlive_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        seen = []
        for _ in range(2):
            async with running(tmp_path, {"web.yaml": WEB + deny("all")}) as plane, plane.client() as client:
                seen.append(await client.start())
        assert seen[0] == seen[1] and seen[0][1]

    asyncio.run(scenario())


def test_addresses_go_alone_to_a_client_without_policies(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, {"web.yaml": WEB}, policy_grace_s=0.01) as plane,
            plane.client() as client,
        ):
            await client.subscribe(ADDRESS_TYPE)
            assert list(versions(await client.take(ADDRESS_TYPE))) == [UID]

    asyncio.run(scenario())


def test_a_policy_is_acked_before_the_address_that_lists_it_goes_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, {"web.yaml": WEB}) as plane,
            plane.client() as client,
            plane.client("node-b") as other,
        ):
            await client.start()
            await other.start()
            plane.write("deny.yaml", deny("web", selector="app: web"))
            policy = await client.receive(AUTHORIZATION_TYPE)
            assert list(versions(policy)) == ["demo/web"]
            # The ack is late; meanwhile the mesh changes again, which must not let the address out.
            plane.write("more.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await other.take(AUTHORIZATION_TYPE)
            while "Kubernetes//Pod/demo/web-1" not in versions(await other.take(ADDRESS_TYPE)):
                pass
            await client.subscribe("type.example/unknown")
            assert (
                await client.receive("type.example/unknown")
            ).type_url  # the next thing sent is no address
            await client.ack(policy)
            addresses = await client.take(ADDRESS_TYPE)
            assert len(addresses.resources) == 2
            assert workload(addresses).authorization_policies == ["demo/web"]
            # And the way back: first nobody lists it, then it goes.
            (plane.manifests / "deny.yaml").unlink()
            addresses = await client.receive(ADDRESS_TYPE)
            assert workload(addresses).authorization_policies == []
            await client.subscribe("type.example/other")
            await client.receive("type.example/other")
            await client.ack(addresses)
            assert list((await client.take(AUTHORIZATION_TYPE)).removed_resources) == ["demo/web"]

    asyncio.run(scenario())


def test_a_nack_is_reported_and_not_answered_with_the_same_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane, plane.client() as client:
            await client.start()
            plane.write("deny.yaml", deny("web", selector="app: web"))
            await client.ack(await client.receive(AUTHORIZATION_TYPE), error="demo/web: no thanks")
            plane.write("more.yaml", pod("db-0", "node-b", "10.10.0.6", labels="app: db"))
            response = await client.take(ADDRESS_TYPE)
            # Not web-0: it would list a policy that the client could not take.
            assert list(versions(response)) == ["Kubernetes//Pod/demo/db-0"]
            await until(lambda: status(plane.state)["nacks"])
            [nack] = status(plane.state)["nacks"]
            assert (nack["node"], nack["names"], nack["reason"]) == (
                "node-a",
                ["demo/web"],
                "demo/web: no thanks",
            )
            plane.write("deny.yaml", deny("web", selector="app: web", rules="[{}, {}]"))
            await client.take(AUTHORIZATION_TYPE)
            assert list(versions(await client.take(ADDRESS_TYPE))) == [UID]
            await until(lambda: status(plane.state)["nacks"] == [])

    asyncio.run(scenario())


@pytest.mark.parametrize("token", ["", "garbage", "ztun-"])
def test_callers_without_a_token_are_refused(tmp_path: Path, token: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane, plane.client(token=token) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.receive()
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert "node token" in caught.value.details()

    asyncio.run(scenario())


def test_addresses_are_served_by_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = {
            "web.yaml": WEB,
            "more.yaml": pod("web-1", "node-b", "10.10.0.6") + pod("c", "node-c", "10.10.0.7"),
        }
        async with running(tmp_path, files) as plane, plane.client() as client:
            await client.subscribe(AUTHORIZATION_TYPE)
            await client.take(AUTHORIZATION_TYPE)
            await client.subscribe(ADDRESS_TYPE, names=("*",), resource_names_unsubscribe=["*"])
            assert list(versions(await client.take(ADDRESS_TYPE))) == [UID], "the pod of its own node"
            await client.subscribe(ADDRESS_TYPE, names=("/10.10.0.6",))
            assert list(versions(await client.take(ADDRESS_TYPE))) == ["Kubernetes//Pod/demo/web-1"]

    asyncio.run(scenario())


def test_only_reported_pods_are_announced_and_they_survive_a_restart(tmp_path: Path) -> None:
    files = {"web.yaml": WEB, "more.yaml": pod("web-1", "node-b", "10.10.0.6")}

    async def scenario() -> None:
        async with running(tmp_path, files) as plane, plane.client() as client:
            await client.start()
            unknown = await plane.report("node-a", "node-a", "demo/web-0", "demo/web-1", "demo/nobody")
            assert unknown == ["demo/nobody", "demo/web-1"]
            response = await client.take(ADDRESS_TYPE)
            assert list(versions(response)) == [UID]
            assert workload(response).tunnel_protocol == workload_pb2.HBONE
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await plane.report("node-a", "node-b", "demo/web-1")
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "'node-a'" in caught.value.details() and "'node-b'" in caught.value.details()
        async with running(tmp_path, files) as plane, plane.client() as client:
            await client.subscribe(AUTHORIZATION_TYPE)
            await client.take(AUTHORIZATION_TYPE)
            await client.subscribe(ADDRESS_TYPE)
            assert workload(await client.take(ADDRESS_TYPE)).tunnel_protocol == workload_pb2.HBONE
            await plane.report("node-a", "node-a")
            assert workload(await client.take(ADDRESS_TYPE)).tunnel_protocol == workload_pb2.NONE

    asyncio.run(scenario())


SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: 8080}]}
"""


def test_a_client_is_told_why_nothing_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB, "p.yaml": "a: ["}) as plane, plane.client() as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.receive()
            assert "nothing is served yet: p.yaml:2 (document 1): not YAML" in caught.value.details()

    asyncio.run(scenario())


def test_an_emptied_file_takes_nothing_away(tmp_path: Path) -> None:
    """What an editor leaves for a moment when it writes in place."""

    async def scenario() -> None:
        files = {"deny.yaml": deny("all"), "web.yaml": WEB}
        async with running(tmp_path, files) as plane, plane.client() as client:
            await client.start()
            (plane.manifests / "deny.yaml").write_text("")
            plane.write("more.yaml", pod("web-1", "node-b", "10.10.0.6"))
            await client.take(ADDRESS_TYPE)
            await until(lambda: "it is empty" in str(status(plane.state)["errors"]))
            await until(lambda: status(plane.state)["policies"] == 1)

    asyncio.run(scenario())


def test_a_stop_ends_streams_so_that_clients_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane, plane.client() as client:
            await client.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(plane.plane.close())
                with pytest.raises(grpc.aio.AioRpcError, match="the control plane is stopping") as caught:
                    await client.receive()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())
