"""A mesh that is composed change by change is the mesh that is composed at once, whatever changes."""

from __future__ import annotations

from random import Random

import pytest

from agent.controlplane.read.admission import NOTHING, Standing, admit
from agent.controlplane.read.changes import between
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.translate.compose import Composed
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from tests.support.controlplane import deny, pod

SETTINGS = MeshSettings()


def service(name: str, ns: str, selector: str, ip: str, kind: str = "ClusterIP") -> str:
    external = ", externalName: example.com" if kind == "ExternalName" else f', clusterIP: "{ip}"'
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {ns}}}
spec: {{type: {kind}{external}, selector: {{{selector}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""


def peer(name: str, ns: str, mode: str, selector: str = "", ports: str = "") -> str:
    chosen = f"selector: {{matchLabels: {{{selector}}}}}, " if selector else ""
    of_ports = f", portLevelMtls: {{{ports}}}" if ports else ""
    return f"""---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {ns}}}
spec: {{{chosen}mtls: {{mode: {mode}}}{of_ports}}}
"""


def namespace(name: str, **annotations: str) -> str:
    said = ", ".join(f"{n}: {v}" for n, v in annotations.items())
    meta = f"{{name: {name}, labels: {{{said}}}, annotations: {{{said}}}}}"
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata: {meta}\n"


def node(name: str, zone: str) -> str:
    label = f'"topology.kubernetes.io/zone": {zone}'
    return f"---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{label}}}}}\n"


DISTRIBUTED = {"networking.istio.io/traffic-distribution": "PreferClose"}
CONFIG = """---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "discoverySelectors: [{matchLabels: {mesh: 'yes'}}]"}
"""
PLACES: dict[str, list[str]] = {
    "pod-0": [pod("p0", "n1", "10.0.0.1"), pod("p0", "n2", "10.0.0.1", labels="app: other")],
    "pod-1": [pod("p1", "n1", "10.0.0.2", labels="app: web, tier: front"), pod("p1", "n1", "10.0.0.9")],
    "pod-2": [pod("p2", "n2", "10.0.0.3", ns="shop"), pod("p2", "n2", "10.0.0.1", ns="shop")],
    "service": [
        service("s", "demo", "app: web", "10.96.0.1"),
        service("s", "demo", "app: other", "10.96.0.2"),
    ],
    "external": [
        service("e", "demo", "app: web", "10.96.0.3"),
        service("e", "demo", "app: web", "", "ExternalName"),
    ],
    "namespace": [namespace("demo"), namespace("demo", **DISTRIBUTED)],
    "discovered": [namespace("shop", mesh="yes"), namespace("shop")],
    "system": [namespace("istio-system"), namespace("istio-system", **{"topology.istio.io/network": "n9"})],
    "config": [CONFIG],
    "node": [node("n1", "a"), node("n1", "b")],
    "deny": [deny("d"), deny("d", "app: web"), deny("d", "tier: front"), deny("d", action="ALLOW")],
    "audit": [deny("x", "app: web", action="AUDIT"), deny("x", "app: web")],
    "root": [deny("r", "app: web", ns="istio-system"), deny("r", ns="istio-system")],
    "peer": [
        peer("m", "demo", "STRICT"),
        peer("m", "demo", "PERMISSIVE"),
        peer("m", "istio-system", "STRICT"),
    ],
    "own": [
        peer("o", "demo", "UNSET", "app: web", "8080: {mode: STRICT}"),
        peer("o", "demo", "STRICT", "app: web"),
    ],
    "broken": [
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d}\nspec: {x: 1}\n"
    ],
}


@pytest.mark.parametrize("seed", range(6))
def test_change_by_change_is_the_same_as_at_once(seed: int) -> None:
    rng = Random(seed)
    standing: Standing = admit(NOTHING, {}, is_first=True)
    composed = Composed(collect([]), {}, SETTINGS)
    texts: dict[str, str] = {}
    apart = 0
    for _ in range(60):
        for place in rng.sample(sorted(PLACES), rng.choice((1, 1, 2))):
            texts.pop(place, None)
            if rng.random() < 0.75:
                texts[place] = rng.choice(PLACES[place])
        after = admit(standing, {name: parse(name, text) for name, text in texts.items()})
        enrolled = {n: tuple(("demo", p) for p in ("p0", "p1") if rng.random() < 0.5) for n in ("n1", "n2")}
        everything = collect(after.served())
        inventory = discovered(everything, mesh_of(everything, SETTINGS))
        whole = Composed(inventory, enrolled, SETTINGS)
        changes = between(standing, after)
        if composed.is_whole_affair(changes):
            composed = whole
        else:
            composed = composed.changed(changes).with_enrolled(enrolled)
            apart += 1
        standing = after
        assert dict(composed.snapshot.addresses) == dict(whole.snapshot.addresses)
        assert list(composed.snapshot.addresses) == list(whole.snapshot.addresses)
        assert dict(composed.snapshot.policies) == dict(whole.snapshot.policies)
        assert {p.meta.key for p in composed.inventory.pods} == {p.meta.key for p in whole.inventory.pods}
    assert apart > 20


def test_a_policy_touches_those_that_it_selects_and_no_others() -> None:
    texts = {f"p{n}": pod(f"p{n}", "n1", f"10.0.0.{n}", labels=f"app: a{n}") for n in range(1, 9)}
    before = admit(NOTHING, {name: parse(name, text) for name, text in texts.items()}, is_first=True)
    composed = Composed(collect(before.served()), {}, SETTINGS)
    texts["d"] = deny("d", "app: a3")
    after = admit(before, {name: parse(name, text) for name, text in texts.items()})
    changed = composed.changed(between(before, after))
    assert changed.snapshot.touched == {"Kubernetes//Pod/demo/p3"}
    assert changed.snapshot.base is composed.snapshot.addresses
    texts["d"] = deny("d")
    whole_namespace = changed.changed(
        between(after, admit(after, {name: parse(name, text) for name, text in texts.items()}))
    )
    assert whole_namespace.snapshot.addresses == composed.snapshot.addresses
