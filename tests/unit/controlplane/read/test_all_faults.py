"""A document with several faults: all of them are told at once, and it is refused as for one of them."""

from __future__ import annotations

import pytest

from agent.controlplane.read.faults import MOST
from agent.controlplane.read.manifests import parse

POLICY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: demo}
spec:
  action: allow
  selector: {matchLabels: {app: 5}}
  rules:
  - from:
    - source: {principal: [a], ipBlocks: [10.0.0.0/99, 1.2.3.4, nonsense]}
    to:
    - operation: {port: ["80"], notPorts: [81, "x"]}
    when:
    - {key: nobody, values: [a]}
  - to: []
"""
POD = """apiVersion: v1
kind: Pod
metadata: {name: p, namespace: demo}
spec: {nodeName: 5, serviceAccountName: A_B}
status: {podIP: nonsense, phase: Gone}
"""
PEERS = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: pa, namespace: UPPER}
spec: {mtls: {mode: strict}, selector: {matchLabels: {a: b}}, portLevelMtls: {"x": {mode: A}}}
"""
SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web.x, namespace: demo}
spec:
  type: Cluster
  clusterIP: 10.0.0.300
  selector: {app: 5}
  ipFamilies: [IPv5]
  ports:
  - {port: 80, targetPort: "8080"}
  - {port: 80, protocol: tcp}
  - {port: 80}
  publishNotReadyAddresses: "yes"
"""
ENTRY = """apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: demo}
spec:
  hosts: ["a b"]
  addresses: [10.0.0.0/99]
  resolution: STATIC
  location: INSIDE
  ports: [{number: 0, name: a}, {number: 80, name: b, protocol: X}]
  endpoints: [{address: "unix:///x", locality: a//b}, {address: name.example}]
"""
MACHINE = """apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: m, namespace: demo}
spec: {address: 1.2.3, weight: -1, ports: {http: x}}
"""
SLICE = """apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: ["fd00::1"]}, {addresses: []}]
ports: [{port: 70000}, {port: 80, protocol: tcp}]
"""


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (
            POLICY,
            "action from[0].source.principal from[0].source.ipBlocks[0] from[0].source.ipBlocks[2] "
            "to[0].operation.port to[0].operation.notPorts[0] to[0].operation.notPorts[1] when[0].key rules[1].to "
            "selector.matchLabels.app",
        ),
        (POD, "serviceAccountName nodeName podIP phase"),
        (
            SERVICE,
            "type clusterIP ports[0].targetPort ports[1].protocol ports[2].name ipFamilies[0] metadata.name "
            "selector.app publishNotReadyAddresses",
        ),
        (
            ENTRY,
            "hosts[0] addresses[0] endpoints[0].address endpoints[0].locality ports[0].number ports[1].protocol "
            "location endpoints[1].address",
        ),
        (MACHINE, "address weight ports.http"),
        (SERVICE[: SERVICE.index("spec:")] + "spec: {ports: {}}\n", "metadata.name spec.ports"),
        (SLICE, "endpoints[0].addresses[0] endpoints[1].addresses ports[0].port ports[1].protocol"),
        (PEERS, "metadata.namespace mtls.mode portLevelMtls.x portLevelMtls.x.mode"),
    ],
)
def test_every_fault_is_told_once(text: str, fields: str) -> None:
    [refusal] = parse("f.yaml", text).refused
    told = [error.field for error in refusal.errors]
    wanted = fields.split()
    assert len(told) == len(wanted), told
    assert all(any(each.endswith(field) for each in told) for field in wanted), told


def test_what_a_misspelt_field_leaves_missing_is_no_fault_of_its_own() -> None:
    text = POLICY[: POLICY.index("spec:")] + "spec: {action: DENY, rule: []}\n"
    [refusal] = parse("f.yaml", text).refused
    assert [error.field for error in refusal.errors] == ["spec.rule"]


def test_faults_that_aliases_repeat_are_not_all_collected() -> None:
    rules = "  rules: [{from: [" + ", ".join(["{source: {ipBlocks: *n}}"] * 60) + "]}]\n"
    many = f"  selector: {{matchLabels: {{a: b}}}}\n  x: &n [{', '.join(['a'] * 60)}]\n"
    [refusal] = parse("f.yaml", POLICY[: POLICY.index("  action")] + many + rules).refused
    assert MOST <= len(refusal.errors) <= MOST + 1


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (PEERS, "PeerAuthentication pa"),
        ("kind: Pod\nmetadata: {name: p}\n", "Pod p"),
        ("apiVersion: v1\nmetadata: {name: p}\n", "object p"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: [p]}\n", "Pod"),
    ],
)
def test_a_document_that_does_not_say_what_it_is_goes_by_its_name(text: str, about: str) -> None:
    [refusal] = parse("f.yaml", text).refused
    assert refusal.key is None and refusal.about == about
