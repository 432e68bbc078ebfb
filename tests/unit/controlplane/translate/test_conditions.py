"""Status conditions are those that a real istiod wrote back for the same objects."""

from __future__ import annotations

from typing import Any

import pytest

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.translate.conditions import Condition, Conditions, conditions
from agent.controlplane.translate.mesh import MeshSettings, mesh_of
from tests.support.controlplane import deny
from tests.unit.controlplane.translate import golden
from tests.unit.controlplane.translate.places import gateway, service

BETTER = {
    "authz-ports": ("apps/bad", "Accepted", "Invalid", "False"),
    "authz-ip-blocks": ("apps/bad", "Accepted", "Invalid", "False"),
    "authz-when": ("apps/w", "UnsupportedValue", "Accepted", "True"),
}
"""Policy, istiod's reason, and ours with its status: what istiod skips is refused or judged here."""


def found(text: str, *, stored: bool = False) -> list[Conditions]:
    standing = admit(NOTHING, {"f": parse("f", text, stored)})
    everything = collect(standing.served())
    return list(conditions(everything, standing.refused, mesh_of(everything, MeshSettings())))


def as_json(made: list[Conditions]) -> dict[str, Any]:
    return {
        f"{each.kind}/{each.namespace}/{each.name}": [
            {"reason": c.reason, "status": str(c.status), "type": c.type} for c in each.all
        ]
        for each in made
    }


def only(made: list[Conditions]) -> Condition:
    [each] = made
    [condition] = each.all
    return condition


@pytest.mark.parametrize("case", golden.cases())
def test_same_as_istiod(case: str) -> None:
    ours = as_json(found(golden.source(case), stored=True))
    theirs = golden.answer(case).get("conditions", {})
    if case in BETTER:
        name, their_reason, reason, status = BETTER[case]
        assert theirs[f"AuthorizationPolicy/{name}"][0]["reason"] == their_reason
        theirs[f"AuthorizationPolicy/{name}"] = [
            {"reason": reason, "status": status, "type": "ZtunnelAccepted"}
        ]
    assert ours == theirs


def test_conditions_are_compared() -> None:
    assert sum("conditions" in golden.answer(case) for case in golden.cases()) == 24


def test_what_is_not_enforced_says_why() -> None:
    condition = only(found(deny("d", action="AUDIT")))
    assert not condition.status and "action AUDIT is for waypoints" in condition.message
    condition = only(found(deny("d").replace("action: DENY", "acton: DENY")))
    assert (condition.status, condition.reason) == (False, "Invalid")
    assert "spec.acton: unknown field" in condition.message and "it is not in force" in condition.message


LIMIT = """apiVersion: ztun.io/v1alpha1
kind: ConnectionLimit
metadata: {name: few, namespace: demo}
spec: {connections: 5}
"""


def test_a_limit_is_accepted_or_says_why_not() -> None:
    condition = only(found(LIMIT))
    assert (condition.type, condition.status, condition.reason) == ("Accepted", True, "Accepted")
    condition = only(found(LIMIT.replace("connections: 5", "conections: 5")))
    assert (condition.type, condition.status, condition.reason) == ("Accepted", False, "Invalid")
    assert "spec.conections: unknown field" in condition.message


def test_a_waypoint_that_is_not_there_is_named() -> None:
    text = service("s", "demo", "app: web", "10.96.0.1", labels="istio.io/use-waypoint: wp")
    condition = only(found(text))
    assert (
        condition.reason == "WaypointIsNotReady" and "demo/wp: there is no such Gateway" in condition.message
    )
    assert only(found(text + gateway("wp", "demo", ip="10.96.9.1"))).status


@pytest.mark.parametrize(
    ("targets", "status", "reason"),
    [
        ("{kind: Service, name: s}", False, "AncestorNotBound"),
        (
            "{kind: Service, name: s}, {kind: Gateway, name: wp, group: gateway.networking.k8s.io}",
            True,
            "PartiallyInvalid",
        ),
        (
            "{kind: Service, name: x}, {kind: Gateway, name: y, group: gateway.networking.k8s.io}",
            False,
            "TargetNotFound",
        ),
        ("{kind: Pod, name: x}", False, "Invalid"),
    ],
)
def test_targets_of_a_policy_that_nobody_can_hear_of(targets: str, status: bool, reason: str) -> None:
    policy = f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: demo}}
spec: {{targetRefs: [{targets}], rules: [{{}}]}}
"""
    text = policy + service("s", "demo", "app: web", "10.96.0.1") + gateway("wp", "demo", ip="10.96.9.1")
    condition = only(found(text))
    assert (condition.type, condition.status, condition.reason) == ("WaypointAccepted", status, reason)
