"""Addresses by name: the recorded talk of a node proxy with istiod, with our control plane in istiod's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.controlplane.serve.xds_session import Session
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE, Snapshot
from agent.pb import xds_pb2 as xds
from tests.support.controlplane import deny, pod
from tests.support.judge import Judge

TYPES = {"Address": ADDRESS_TYPE, "Authorization": AUTHORIZATION_TYPE}
WEB_0, WEB_1 = "Kubernetes//Pod/apps/web-0", "Kubernetes//Pod/apps/web-1"
WEB, VIP = "apps/web.apps.svc.cluster.local", "/10.96.0.10"


def service(port: int = 80) -> str:
    return (
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: apps}\n"
        f"spec: {{selector: {{app: web}}, clusterIP: 10.96.0.10, ports: [{{port: {port}}}]}}\n"
    )


def mesh(port: int = 80, lone: str = "a", near: bool = False, far: bool = True) -> Snapshot:
    """The cluster of the talk, in the states that it goes through."""
    pods = pod("web-0", "node-a", "10.10.0.5", ns="apps") + pod(
        "lone", "node-c", "10.10.0.7", lone, "a: b", "apps"
    )
    pods += pod("web-1", "node-b", "10.10.0.6", ns="apps") if far else ""
    pods += pod("near", "node-a", "10.10.0.8", labels="a: b", ns="apps") if near else ""
    return Judge(a=pods + service(port) + deny("all", ns="apps")).served


class Proxy:
    """The client's side of a stream: says what it is told to, and answers nothing by itself."""

    def __init__(self, snapshot: Snapshot, node: str = "node-a") -> None:
        self.session, self.snapshot = Session(node), snapshot
        self.nonces: dict[str, str] = {}

    def say(self, type_: str = "Address", **fields: Any) -> None:
        request = xds.DeltaDiscoveryRequest(type_url=TYPES[type_])
        request.resource_names_subscribe.extend(fields.get("subscribe", ()))
        request.resource_names_unsubscribe.extend(fields.get("unsubscribe", ()))
        request.initial_resource_versions.update(fields.get("versions", {}))
        request.response_nonce = self.nonces.get(fields.get("response_nonce", ""), "")
        self.session.receive(request)

    def hears(self) -> Iterator[xds.DeltaDiscoveryResponse]:
        archive = {p.resource.version: p.message for p in self.snapshot.policies.values()}
        yield from self.session.step(self.snapshot, archive)

    def settles(self) -> list[xds.DeltaDiscoveryResponse]:
        """Everything it is sent until there is silence, each acknowledged."""
        heard = []
        while responses := list(self.hears()):
            for response in responses:
                heard.append(response)
                self.session.receive(
                    xds.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                )
        return heard

    @classmethod
    def asking(cls, snapshot: Snapshot, *names: str, **more: Any) -> Proxy:
        proxy = cls(snapshot)
        proxy.say("Authorization")
        proxy.say(subscribe=["*", *names], unsubscribe=["*"], **more)
        return proxy


def names(responses: list[xds.DeltaDiscoveryResponse]) -> list[str]:
    return sorted(
        r.name for response in responses for r in response.resources if response.type_url == ADDRESS_TYPE
    )


def removed(responses: list[xds.DeltaDiscoveryResponse]) -> list[str]:
    return sorted(name for response in responses for name in response.removed_resources)


CLUSTER = {
    "pods web-0": {},
    "service web changes again": {"port": 82, "near": True, "lone": "b"},
    "service web changes": {"port": 81},
    "pod lone": {"port": 81, "lone": "b"},
    "pod near": {"port": 81, "lone": "b", "near": True},
}


def test_the_recorded_talk() -> None:
    """Answers are the recorded ones: names, aliases, removals, silence. What did not change istiod repeats, we do not.

    The end differs on purpose: a name that is not wanted any more takes with it what came for it alone, and nothing of
    it is sent again (istiod reports all it ever sent as removed, and goes on sending).
    """
    talk = json.loads((Path(__file__).parents[3] / "vectors/talks/talks.json").read_text())["on-demand"]
    proxy = Proxy(mesh())
    # Policies first: our control plane sends addresses when it knows which policies the client has.
    proxy.say("Authorization")
    proxy.settles()
    compared = 0
    for turn in talk:
        if "cluster" in turn:
            proxy.snapshot = mesh(**next(v for k, v in CLUSTER.items() if turn["cluster"].startswith(k)))
        elif "client" in turn and turn["client"]["type"] == "Address":
            said = dict(turn["client"])
            if "/10.96.0.10" in said.get("unsubscribe", ()):
                break
            proxy.say(said.pop("type"), **said)
        elif turn.get("server") == "silence":
            assert list(proxy.hears()) == []
            compared += 1
        elif "server" in turn and turn["server"]["type"] == "Address":
            [response] = proxy.hears()
            recorded = turn["server"]
            proxy.nonces[recorded["nonce"]] = response.nonce
            ours = {r.name: list(r.aliases) for r in response.resources}
            theirs = {name: r["aliases"] for name, r in recorded["resources"].items()}
            assert ours.items() <= theirs.items()
            assert {n for n, r in recorded["resources"].items() if r["version"] == "new"} - ours.keys() <= {
                WEB_0,
                WEB_1,
            }
            assert list(response.removed_resources) == recorded.get("removed", [])
            compared += 1
    assert compared == 7
    proxy.say(unsubscribe=[VIP])
    assert removed(proxy.settles()) == [WEB_1, WEB]
    proxy.snapshot = mesh(82, "b", near=True)
    assert names(proxy.settles()) == [WEB_0], "it is of the client's node, and a part of the Service"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/10.10.0.6", [WEB_1]),
        (WEB_1, [WEB_1]),
        (WEB, [WEB_0, WEB_1, WEB]),
        (VIP, [WEB_0, WEB_1, WEB]),
        ("/10.10.0.5", [WEB_0]),
    ],
)
def test_a_name_is_answered_with_all_that_is_behind_it(name: str, found: list[str]) -> None:
    proxy = Proxy.asking(mesh())
    proxy.settles()
    proxy.say(subscribe=[name])
    assert names(proxy.settles()) == found, "also what the client holds already: it waits for the answer"
    proxy.say(subscribe=[name])
    assert proxy.settles() == []


def test_a_name_that_is_unknown_is_said_and_comes_when_it_is_there() -> None:
    proxy = Proxy.asking(mesh(far=False), "/10.10.0.6")
    first = proxy.settles()
    assert (names(first), removed(first)) == ([WEB_0], ["/10.10.0.6"])
    proxy.snapshot = mesh()
    assert names(proxy.settles()) == [WEB_1]
    proxy.snapshot = mesh(far=False)
    assert removed(proxy.settles()) == [WEB_1]


def test_names_alone_are_a_subscription_on_demand_too() -> None:
    proxy = Proxy(mesh())
    proxy.say("Authorization")
    proxy.say(subscribe=[WEB_1])
    assert names(proxy.settles()) == [WEB_0, WEB_1]


def test_who_comes_back_is_sent_the_differences_of_what_it_holds_and_wants() -> None:
    proxy = Proxy.asking(mesh(), VIP)
    versions = {r.name: r.version for response in proxy.settles() for r in response.resources}
    held = {n: v for n, v in versions.items() if n in (WEB, WEB_0, WEB_1)}
    again = Proxy.asking(
        mesh(81), versions=held | {"/10.10.0.99": "", "/10.10.0.7": "", "Kubernetes//Pod/apps/gone": "x"}
    )
    answer = again.settles()
    assert names(answer) == ["Kubernetes//Pod/apps/lone", WEB_0, WEB_1, WEB]
    assert removed(answer) == ["/10.10.0.99", "Kubernetes//Pod/apps/gone"]


def test_pods_of_the_host_network_come_together() -> None:
    host = "".join(
        pod(f"h{i}", "node-b", "10.0.0.1").replace("{nodeName", "{hostNetwork: true, nodeName") for i in "01"
    )
    proxy = Proxy.asking(Judge(a=host).served, "/10.0.0.1")
    assert names(proxy.settles()) == ["Kubernetes//Pod/demo/h0", "Kubernetes//Pod/demo/h1"]


def test_a_star_turns_everything_on_and_off() -> None:
    proxy = Proxy.asking(mesh())
    proxy.settles()
    proxy.say(subscribe=["*"])
    assert names(proxy.settles()) == ["Kubernetes//Pod/apps/lone", WEB_1, WEB]
    proxy.say(unsubscribe=["*"])
    assert removed(proxy.settles()) == ["Kubernetes//Pod/apps/lone", WEB_1, WEB]


def test_policies_are_sent_whole_and_before_the_addresses_that_list_them() -> None:
    listed = pod("web-0", "node-a", "10.10.0.5") + deny("d", selector="app: web")
    proxy = Proxy(Judge(a=listed).served)
    proxy.say(subscribe=["*", "/10.10.0.5"], unsubscribe=["*"])
    proxy.say("Authorization", subscribe=["*"], unsubscribe=["*"])
    [policies] = proxy.hears()
    assert [r.name for r in policies.resources] == ["demo/d"] and not policies.resources[0].aliases
    assert list(proxy.hears()) == [], "not before that is acknowledged"
    proxy.session.receive(
        xds.DeltaDiscoveryRequest(type_url=AUTHORIZATION_TYPE, response_nonce=policies.nonce)
    )
    assert names(proxy.settles()) == ["Kubernetes//Pod/demo/web-0"]
