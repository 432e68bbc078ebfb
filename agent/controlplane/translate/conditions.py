"""Status conditions in Istio's shape: a policy accepted, or not enforced and why; what is bound to a waypoint. Pure.

Types and reasons are istiod's, so that what reads its statuses can read these; a ConnectionLimit, which istiod does not
know, has the type that most kinds of Kubernetes have. Pods have none there, nor here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.meta import Meta
from agent.controlplane.read.objects import AuthorizationPolicy, Pod, Target
from agent.controlplane.read.refused import Refused
from agent.controlplane.translate.authorization_policy import beyond_nodes, why_left_out
from agent.controlplane.translate.mesh import Mesh, discovered
from agent.controlplane.translate.waypoint_effects import why_unbound, why_unresolved
from agent.controlplane.translate.waypoints import ACCEPTED as BOUND
from agent.controlplane.translate.waypoints import OWN_CLASSES, Binding, Waypoints, bindings

ZTUNNEL, WAYPOINT, OF_LIMIT = "ZtunnelAccepted", "WaypointAccepted", "Accepted"
WAYPOINT_BOUND, WAYPOINT_MISSING = "istio.io/WaypointBound", "istio.io/WaypointMissing"
TYPES = {"AuthorizationPolicy": ZTUNNEL, "ConnectionLimit": OF_LIMIT}
"""Of what is refused here."""
ACCEPTED, UNSUPPORTED, INVALID = "Accepted", "UnsupportedValue", "Invalid"
NOT_FOUND, NOT_BOUND, PARTLY = "TargetNotFound", "AncestorNotBound", "PartiallyInvalid"
WILDCARD = "NoWaypointForWildcardService"


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of one object."""

    kind: str
    namespace: str
    name: str
    all: tuple[Condition, ...]


def conditions(everything: Inventory, refused: Collection[Refused], mesh: Mesh) -> Iterator[Conditions]:
    """Of all objects that have any. A policy that is refused has that alone, whatever its last good form does."""
    inventory = discovered(everything, mesh)
    waypoints = Waypoints.of(inventory, mesh.network)
    broken = {r.key: r for r in refused if r.kind in TYPES and r.key is not None}
    for (kind, namespace, name), refusal in broken.items():
        message = f"{refusal.errors[0].field}: {refusal.errors[0].problem}; {refusal.effect}"
        yield Conditions(kind, namespace, name, (Condition(TYPES[kind], False, INVALID, message),))
    bound = {}
    for made, binding in bindings(inventory, waypoints):
        bound[made.meta.key] = binding
        if not isinstance(made, Pod) and (found := tuple(_of_binding(made, binding))):
            yield _of(made.meta, *found)
    for policy in inventory.policies:
        if policy.meta.key not in broken and policy.meta.namespace:
            yield _of(policy.meta, _of_policy(policy, inventory, bound))
    for limit in inventory.connection_limits:
        if limit.meta.key not in broken and limit.meta.namespace:
            yield _of(limit.meta, Condition(OF_LIMIT, True, ACCEPTED, "in force at node proxies"))


def _of(meta: Meta, *found: Condition) -> Conditions:
    return Conditions(meta.kind, meta.namespace, meta.name, found)


def _of_binding(made: object, binding: Binding) -> Iterator[Condition]:
    if binding.reason:
        namespace, name = binding.asked
        message = why_unbound(binding) or f"bound to {namespace}/{name}"
        yield Condition(WAYPOINT_BOUND, binding.reason == BOUND, binding.reason, message)
    if isinstance(made, ServiceEntry) and (problem := why_unresolved(made, binding)):
        yield Condition(WAYPOINT_MISSING, True, WILDCARD, f"{problem}: bind it to a waypoint")


def _of_policy(
    policy: AuthorizationPolicy, inventory: Inventory, bound: dict[tuple[str, str, str], Binding]
) -> Condition:
    if policy.targets:
        return _of_targets(policy, inventory, bound)
    if (why := why_left_out(policy)) is not None:
        return Condition(ZTUNNEL, False, UNSUPPORTED, why)
    if beyond := beyond_nodes(policy):
        return Condition(ZTUNNEL, True, UNSUPPORTED, beyond)
    return Condition(ZTUNNEL, True, ACCEPTED, "enforced by node proxies")


def _of_targets(
    policy: AuthorizationPolicy, inventory: Inventory, bound: dict[tuple[str, str, str], Binding]
) -> Condition:
    """Whether a waypoint can hear of it; this control plane tells none."""
    found = {target: _reason(target, policy.meta.namespace, inventory, bound) for target in policy.targets}
    wrong = {target: reason for target, reason in found.items() if reason != ACCEPTED}
    if not wrong:
        return Condition(WAYPOINT, True, ACCEPTED, "it is for waypoints; node proxies do not enforce it")
    message = "; ".join(f"{target.kind} {target.name}: {reason}" for target, reason in wrong.items())
    if len(wrong) < len(found):
        return Condition(WAYPOINT, True, PARTLY, message)
    reasons = set(wrong.values())
    return Condition(WAYPOINT, False, reasons.pop() if len(reasons) == 1 else INVALID, message)


def _reason(
    target: Target, namespace: str, inventory: Inventory, bound: dict[tuple[str, str, str], Binding]
) -> str:
    match target.kind:
        case "Gateway":
            there = {(g.meta.namespace, g.meta.name) for g in inventory.gateways}
            return ACCEPTED if (namespace, target.name) in there else NOT_FOUND
        case "GatewayClass":
            classes = {*OWN_CLASSES, *(c.meta.name for c in inventory.gateway_classes)}
            return ACCEPTED if target.name in classes else NOT_FOUND
        case "Service" | "ServiceEntry":
            binding = bound.get((target.kind, namespace, target.name))
            if binding is None:
                return NOT_FOUND
            return ACCEPTED if binding.gateway else NOT_BOUND
    return INVALID
