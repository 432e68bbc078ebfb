"""Kinds that do not make a mesh here: why each is left out, and what to write in its place. Pure."""

from __future__ import annotations

from agent.controlplane.read.kinds import CORE_VERSION, GATEWAY_GROUP, NETWORKING_GROUP, SECURITY_GROUP

GUARD_GROUPS = (SECURITY_GROUP, "authentication.istio.io", "rbac.istio.io", "networking.k8s.io")
"""Those in which Istio or Kubernetes has, or had, what lets in and keeps out."""
NO_GUARDS = ("Ingress", "IngressClass")
"""Kinds of these groups that keep nobody out."""
OF_WAYPOINTS = "waypoints and gateways do what it says, and none is configured from here"
OF_SIDECARS = "it is for sidecars, and captured pods have none"
OF_PODS = "nobody makes pods from it; `ztun pod-manifest` writes the Pod of one that runs"
WHY = {
    (NETWORKING_GROUP, "VirtualService"): OF_WAYPOINTS,
    (NETWORKING_GROUP, "DestinationRule"): OF_WAYPOINTS,
    (NETWORKING_GROUP, "EnvoyFilter"): OF_WAYPOINTS,
    (NETWORKING_GROUP, "Gateway"): f"{OF_WAYPOINTS}; a waypoint is a Gateway of {GATEWAY_GROUP}",
    (NETWORKING_GROUP, "Sidecar"): OF_SIDECARS,
    (NETWORKING_GROUP, "ProxyConfig"): OF_SIDECARS,
    (NETWORKING_GROUP, "WorkloadGroup"): "write a WorkloadEntry for each of its members",
    (GATEWAY_GROUP, "HTTPRoute"): OF_WAYPOINTS,
    (GATEWAY_GROUP, "GRPCRoute"): OF_WAYPOINTS,
    (GATEWAY_GROUP, "TCPRoute"): OF_WAYPOINTS,
    (GATEWAY_GROUP, "TLSRoute"): OF_WAYPOINTS,
    (GATEWAY_GROUP, "BackendTLSPolicy"): OF_WAYPOINTS,
    ("extensions.istio.io", "WasmPlugin"): OF_WAYPOINTS,
    ("telemetry.istio.io", "Telemetry"): OF_WAYPOINTS,
    (SECURITY_GROUP, "RequestAuthentication"): OF_WAYPOINTS,
    ("networking.k8s.io", "NetworkPolicy"): (
        "a CNI or the host's firewall does what it says; for captured TCP write an AuthorizationPolicy"
    ),
    ("networking.k8s.io", "Ingress"): OF_WAYPOINTS,
    ("", "Endpoints"): "write an EndpointSlice",
    ("apps", "Deployment"): OF_PODS,
    ("apps", "StatefulSet"): OF_PODS,
    ("apps", "DaemonSet"): OF_PODS,
    ("apps", "ReplicaSet"): OF_PODS,
    ("batch", "Job"): OF_PODS,
    ("batch", "CronJob"): OF_PODS,
}


def is_guard(group: str, kind: str) -> bool:
    """Whether somebody may count on it to keep somebody out."""
    return group in GUARD_GROUPS and kind not in NO_GUARDS


def why_left_out(group: str, kind: str, api_version: str) -> str:
    """The sentence about a kind that is not read."""
    why = WHY.get((group, kind), "")
    return (
        f"kind {kind} ({api_version or CORE_VERSION}) is not used and was left out{': ' if why else ''}{why}"
    )
