"""ztunnel's file of local configuration: what it says arrives as it is, and what is wrong is named with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.controlplane.ztunnel_file.reading import BadFile, Read, made_of
from agent.dump.mesh import policy_row, service_row, workload_row
from agent.wire.xds_decode import decode_address, decode_authorization
from tests.support.dumped import dump

WORKLOAD = "{uid: c//Pod/a/w, name: w, namespace: a, services: {}}"


def read(text: str) -> Read:
    return made_of("local.yaml", text, "cluster.local")


def refusal(text: str) -> str:
    with pytest.raises(BadFile) as caught:
        read(text)
    return str(caught.value)


def as_file(dumped: dict[str, Any]) -> dict[str, Any]:
    """What a dump says, as a file has it: endpoints are the workloads' own to say."""
    ports = {
        (uid, f"{s['namespace']}/{s['hostname']}"): each["port"]
        for s in dumped["services"]
        for uid, each in s["endpoints"].items()
    } | {
        (uid, key): each["port"]
        for key, endpoints in dumped["stagedServices"].items()
        for uid, each in endpoints.items()
    }
    return {
        "workloads": [
            w | {"services": {key: ports[w["uid"], key] for key in w.get("services", ())}}
            for w in dumped["workloads"]
        ],
        "services": [{k: v for k, v in s.items() if k != "endpoints"} for s in dumped["services"]],
        "policies": dumped["policies"],
    }


def test_what_is_dumped_can_be_served_and_is_the_same() -> None:
    """Every field has another value in that dump: none is lost or taken for another."""
    dumped = json.loads(dump())
    served = read(json.dumps(as_file(dumped))).snapshot
    made = [decode_address(name, r.value) for name, r in served.addresses.items()]
    rows = {each.uid: workload_row(each) for each in made if hasattr(each, "uid")}
    assert rows == {w["uid"]: w for w in dumped["workloads"]}
    services = [service_row(each, {}) for each in made if not hasattr(each, "uid")]
    assert {s["name"]: s | {"endpoints": {}} for s in dumped["services"]} == {s["name"]: s for s in services}
    policies = [policy_row(decode_authorization(n, p.resource.value)) for n, p in served.policies.items()]
    assert sorted(policies, key=str) == sorted(dumped["policies"], key=str)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workload: []", "local.yaml:1: workload: there is no such field; known here: policies, services"),
        ("workloads: {}", "local.yaml:1: workloads: it must be a list"),
        ("workloads:\n- {name: w, namespace: a}", "local.yaml:2: workloads[0].uid: it is missing"),
        (f"workloads:\n- {WORKLOAD[:-1]}, protcol: TCP}}", "local.yaml:2: workloads[0].protcol: there is no"),
        (f"workloads: [{WORKLOAD[:-1]}, protocol: hbone}}]", "protocol: 'hbone' is not one of TCP, HBONE"),
        (f"workloads: [{WORKLOAD[:-1]}, workloadIps: [10.0.0]}}]", "workloads[0].workloadIps[0]: "),
        (
            f"workloads: [{WORKLOAD[:-1]}, trustDomain: other, node: n}}]",
            "trustDomain: 'other' is not that of",
        ),
        (
            f"workloads:\n- {WORKLOAD}\n- {WORKLOAD}",
            "local.yaml:3: workloads[1]: c//Pod/a/w is there already, in",
        ),
        ("workloads: [{uid: u, name: w, namespace: a, services: {web: {}}}]", "is not NAMESPACE/HOSTNAME"),
        (
            'workloads: [{uid: u, name: w, namespace: a, services: {a/w: {"0": 1}}}]',
            "'0' is not a port from 1",
        ),
        (
            "workloads: [{uid: u, name: w, namespace: a, waypoint: {destination: w}}]",
            "waypoint.destination: ",
        ),
        ("services: [{name: s, namespace: a}]", "services[0].hostname: it is missing"),
        ("services: [{name: s, namespace: a, hostname: h, vips: [10.0.0.1]}]", "is not NETWORK/IP"),
        ("services: [{name: s, namespace: a, hostname: h, endpoints: {u: {}}}]", "leave it out"),
        ("policies: [{name: p, namespace: a, action: Allow}]", "policies[0].scope: it is missing"),
        ("policies: [{name: p, namespace: a, scope: Global, action: Audit}]", "is not one of Allow, Deny"),
        (
            "policies: [{name: p, namespace: a, scope: Global, action: Deny, rules: [[[{ports: [1]}]]]}]",
            "policies[0].rules[0][0][0].ports: there is no such field",
        ),
        (
            "policies: [{name: p, namespace: a, scope: Global, action: Deny, rules: [[[{principals: [x]}]]]}]",
            "policies[0].rules[0][0][0].principals[0]: it must",
        ),
        ("workloads: [", "local.yaml:2: document 1: not YAML"),
        ("---\n{}\n---\n{}\n", "it must be one document"),
        ("", "it must be one document with workloads, services, policies"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, says: str) -> None:
    assert says in refusal(text)


def test_all_that_is_wrong_is_named_at_once() -> None:
    said = refusal("workloads: [{uid: u}]\nservices: [{name: s}]\npolicies: [{name: p}]").splitlines()
    assert len(said) == 3
