"""A control plane whose objects, callers and authority are a cluster's: all of it real but the API server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.controlplane.kubeapi import following
from agent.controlplane.kubeapi.following import Following
from agent.controlplane.kubeapi.mirror import Mirror
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.pb import workload_pb2
from tests.support import kube
from tests.support.cluster_plane import running
from tests.support.controlplane import LIMIT_S, versions
from tests.support.crews import until

WEB = "Kubernetes//Pod/demo/web"
DENY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "nobody", "namespace": "demo"},
    "spec": {"action": "DENY", "rules": [{}]},
}


def test_objects_of_the_api_are_served_and_every_change_of_them(tmp_path: Path, api: kube.FakeApi) -> None:
    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            addresses, policies = await client.start()
            assert WEB in addresses and not policies
            api.create(DENY)
            assert list(versions(await client.take(AUTHORIZATION_TYPE))) == ["demo/nobody"]
            api.delete("pods", "web", "demo")
            assert list((await client.take(ADDRESS_TYPE)).removed_resources) == [WEB]

    asyncio.run(scenario())


def service(name: str, ip: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ports": [{"name": "https", "port": 443, "targetPort": 6443}],
        },
    }


def test_the_service_of_the_api_itself_has_the_endpoints_of_its_slice(
    tmp_path: Path, api: kube.FakeApi
) -> None:
    """`default/kubernetes` selects no pods: an EndpointSlice says where the API server is."""
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.7"], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }
    api.create(service("kubernetes", "10.96.0.1"))
    api.create(endpoints)

    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            addresses, _ = await client.start()
            uid = "Kubernetes/discovery.k8s.io/EndpointSlice/default/kubernetes/192.0.2.7"
            assert {uid, "default/kubernetes.default.svc.cluster.local"} <= addresses.keys()
            api.delete("endpointslices", "kubernetes", "default")
            assert list((await client.take(ADDRESS_TYPE)).removed_resources) == [uid]

    asyncio.run(scenario())


def test_kinds_that_a_cluster_may_lack_are_served_where_it_has_them(
    tmp_path: Path, api: kube.FakeApi
) -> None:
    api.lacks.clear()
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "mail", "namespace": "demo"},
        "spec": {
            "hosts": ["mail.example.com"],
            "ports": [{"number": 25, "name": "smtp"}],
            "resolution": "DNS",
        },
    }
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "wp", "namespace": "demo"},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": []},
        "status": {"addresses": [{"type": "IPAddress", "value": "10.96.9.1"}]},
    }

    limit = {
        "apiVersion": "ztun.io/v1alpha1",
        "kind": "ConnectionLimit",
        "metadata": {"name": "few", "namespace": "demo"},
        "spec": {"connections": 3},
    }

    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            await client.start()
            api.create(entry)
            assert "demo/mail.example.com" in versions(await client.take(ADDRESS_TYPE))
            api.create(gateway)
            api.change("namespaces", "demo", metadata={"labels": {"istio.io/use-waypoint": "wp"}})
            [found] = [
                r for r in (await client.take(ADDRESS_TYPE)).resources if r.name == "demo/mail.example.com"
            ]
            service = workload_pb2.Address.FromString(found.resource.value).service
            assert service.waypoint.address.address == bytes([10, 96, 9, 1])
            assert [a.address[:2] for a in service.addresses] == [bytes([240, 240]), bytes([0x20, 0x01])]
            api.create(limit)
            found = next(r for r in (await client.take(ADDRESS_TYPE)).resources if "//Pod/" in r.name)
            [extension] = workload_pb2.Address.FromString(found.resource.value).workload.extensions
            assert extension.name == "ztun.io/limits"

    asyncio.run(scenario())


def test_the_mesh_config_is_read_and_no_other_configmap(tmp_path: Path, api: kube.FakeApi) -> None:
    def config(name: str, namespace: str, mesh: str) -> dict[str, Any]:
        meta = {"name": name, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"mesh": mesh}}

    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            addresses, _ = await client.start()
            assert WEB in addresses
            api.create(config("other", "istio-system", "discoverySelectors: [{matchLabels: {mesh: other}}]"))
            api.create(config("istio", "istio-system", "discoverySelectors: [{matchLabels: {mesh: here}}]"))
            assert WEB in (await client.take(ADDRESS_TYPE)).removed_resources
            api.change("namespaces", "demo", metadata={"labels": {"mesh": "here"}})
            assert WEB in versions(await client.take(ADDRESS_TYPE))
            asked = [line for line in api.requests if "/configmaps?" in line]
            assert asked and all("fieldSelector=metadata.name%3Distio" in line for line in asked)

    asyncio.run(scenario())


def test_an_outage_takes_nothing_away_and_what_happened_meanwhile_is_heard(
    tmp_path: Path, api: kube.FakeApi
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            await client.start()
            api.stop()
            api.create(kube.pod("later", address="10.10.0.6"))
            api.start()
            response = await client.take(ADDRESS_TYPE)
            assert list(versions(response)) == ["Kubernetes//Pod/demo/later"]
            assert not response.removed_resources

    asyncio.run(scenario())


def test_nothing_is_served_before_all_is_known_and_it_is_said_what_lacks(
    tmp_path: Path, api: kube.FakeApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.controlplane.kubeapi.following.SAY_S", 0.2)
    api.refuse(404, "peerauthentications", times=10**6, message="the server could not find it")

    async def scenario() -> None:
        serving = asyncio.create_task(_until_cancelled(tmp_path, api))
        await until(lambda: "before all of these are known: PeerAuthentication" in caplog.text, "it is said")
        assert not serving.done()
        api.refusals.clear()
        await asyncio.wait_for(serving, LIMIT_S)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_line", "resource", "verbs"),
    [
        (
            "GET /apis/security.istio.io/v1/authorizationpolicies",
            "authorizationpolicies",
            "get, list and watch",
        ),
        ("GET /api/v1/namespaces/ztun-system/secrets", "secrets", "get"),
        ("POST /api/v1/namespaces/ztun-system/secrets", "secrets", "create"),
        ("POST /api/v1/namespaces/ztun-system/configmaps", "configmaps", "create"),
    ],
)
def test_a_right_that_is_missing_is_named_and_waited_for(
    tmp_path: Path,
    api: kube.FakeApi,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    request_line: str,
    resource: str,
    verbs: str,
) -> None:
    monkeypatch.setattr(following, "SAY_S", 0.2)
    api.refuse(403, request_line, times=10**6, message=f"cannot do that with {resource}")

    async def scenario() -> None:
        serving = asyncio.create_task(_until_cancelled(tmp_path, api))
        await until(lambda: f"cannot do that with {resource}" in caplog.text, "it is said")
        (line, *_) = [text for text in caplog.messages if f"with {resource}" in text]
        assert f"the verbs {verbs}" in line and f"on {resource}" in line
        assert not serving.done()
        api.refusals.clear()
        await asyncio.wait_for(serving, LIMIT_S)

    asyncio.run(scenario())


def test_an_object_that_cannot_be_used_is_named_and_the_others_are_served(
    tmp_path: Path, api: kube.FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    broken = kube.pod("broken", address="10.10.0.6", uid="u-broken")
    odd = kube.pod("odd", address="10.10.0.7", uid="u-odd")
    del broken["metadata"]["uid"]
    odd["spec"] = {"nodeName": ["n1"]}
    odd["status"]["podIPs"] = "none"

    async def scenario() -> None:
        async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
            await client.start()
            for raw in (odd, broken):
                with api._changed:
                    api._version += 1
                    api._note("ADDED", raw)
            api.create(kube.pod("fine", address="10.10.0.8", uid="u-fine"))
            seen: set[str] = set()
            while "Kubernetes//Pod/demo/fine" not in seen:
                seen |= set(versions(await client.take(ADDRESS_TYPE)))
            assert not any("broken" in name or "odd" in name for name in seen)
            await until(lambda: "demo/broken" in caplog.text and "demo/odd" in caplog.text, "they are named")

    asyncio.run(scenario())
    assert "Pod demo/broken has no metadata.uid" in caplog.text


async def _until_cancelled(tmp_path: Path, api: kube.FakeApi) -> None:
    async with running(tmp_path, api) as plane, plane.client(token="of-n1") as client:
        await client.start()


def test_what_follows_closely_is_told_together_and_now_and_then_everything_is_looked_at(
    tmp_path: Path, api: kube.FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        seen = Following(lambda: api.access, Mirror(tmp_path / "mirror"), Random(1))
        running = asyncio.create_task(seen.run())
        notices = seen.notices()
        try:
            await seen.whole.wait()
            told = await anext(notices)
            while "Pod/demo/web.json" not in (told or ()):
                told = await anext(notices)
            for number in range(3):
                api.create(kube.pod(f"more-{number}", address=f"10.10.1.{number}"))
            more: set[str] = set()
            while len(more) < 3:
                more |= {name for name in await anext(notices) or () if "more" in name}
            assert more == {f"Pod/demo/more-{number}.json" for number in range(3)}
            monkeypatch.setattr(following, "LOOK_S", 0.0)
            assert await anext(notices) is None, "somebody may have been at the files"
        finally:
            await notices.aclose()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(scenario())
