"""The kinds that make a mesh: who reads each, its fields, and the versions of its API that say the same. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.controlplane.read import core_kinds, schema, security_kinds
from agent.controlplane.read.endpoint_slice import read_endpoint_slice
from agent.controlplane.read.fields import Field
from agent.controlplane.read.gateway_kinds import read_gateway, read_gateway_class
from agent.controlplane.read.limit_kind import read_connection_limit
from agent.controlplane.read.mesh_config import read_mesh_config
from agent.controlplane.read.objects import Object
from agent.controlplane.read.service_entry import read_service_entry
from agent.controlplane.read.workload_entry import read_workload_entry

Reader = Callable[[Field, bool], Object]
CORE_VERSION = "v1"
SECURITY_GROUP, NETWORKING_GROUP = "security.istio.io", "networking.istio.io"
GATEWAY_GROUP, DISCOVERY_GROUP = "gateway.networking.k8s.io", "discovery.k8s.io"
OWN_GROUP = "ztun.io"
REVISED_GROUPS = (SECURITY_GROUP, NETWORKING_GROUP)
"""Those whose objects may be for another revision of the mesh."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`versions`: those that are read, the first being the one to write."""

    read: Reader
    schema: schema.Schema
    versions: tuple[str, ...] = (CORE_VERSION,)


SECURITY, NETWORKING = ("v1", "v1beta1"), ("v1", "v1beta1", "v1alpha3")
OWN = ("v1alpha1",)
SLICES, GATEWAYS = ("v1", "v1beta1"), ("v1", "v1beta1")
KINDS: dict[tuple[str, str], Kind] = {
    ("", "Namespace"): Kind(core_kinds.read_namespace, schema.NAMESPACE),
    ("", "Node"): Kind(core_kinds.read_node, schema.NODE),
    ("", "ServiceAccount"): Kind(core_kinds.read_service_account, schema.SERVICE_ACCOUNT),
    ("", "Pod"): Kind(core_kinds.read_pod, schema.POD),
    ("", "Service"): Kind(core_kinds.read_service, schema.SERVICE),
    (DISCOVERY_GROUP, "EndpointSlice"): Kind(read_endpoint_slice, schema.ENDPOINT_SLICE, SLICES),
    (NETWORKING_GROUP, "WorkloadEntry"): Kind(read_workload_entry, schema.WORKLOAD_ENTRY, NETWORKING),
    (NETWORKING_GROUP, "ServiceEntry"): Kind(read_service_entry, schema.SERVICE_ENTRY, NETWORKING),
    (GATEWAY_GROUP, "Gateway"): Kind(read_gateway, schema.GATEWAY, GATEWAYS),
    (GATEWAY_GROUP, "GatewayClass"): Kind(read_gateway_class, schema.GATEWAY_CLASS, GATEWAYS),
    (SECURITY_GROUP, "AuthorizationPolicy"): Kind(
        security_kinds.read_authorization_policy, schema.AUTHORIZATION_POLICY, SECURITY
    ),
    (OWN_GROUP, "ConnectionLimit"): Kind(read_connection_limit, schema.CONNECTION_LIMIT, OWN),
    (SECURITY_GROUP, "PeerAuthentication"): Kind(
        security_kinds.read_peer_authentication, schema.PEER_AUTHENTICATION, SECURITY
    ),
}
OWN_KINDS = frozenset(kind for group, kind in KINDS if group == OWN_GROUP)
MESH_CONFIG = Kind(read_mesh_config, schema.CONFIG_MAP)
LISTS = frozenset({*(f"{kind}List" for _, kind in KINDS), "ConfigMapList"})
LIKE_LISTS = {kind.lower().rstrip("s"): kind for kind in ("List", *LISTS)}
"""What a list may be misspelt as: its objects would quietly be gone."""
CORE_KINDS = {kind.lower(): kind for kind in ("ConfigMap", *(kind for group, kind in KINDS if not group))}
