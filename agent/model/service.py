"""A Service: a named set of endpoints with its virtual IPs and balancing preference.

Fields mirror `istio.workload.Service` (docs/WIRE.md#mesh-state).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from agent.model.address import CIDR, NamespacedHostname, NetworkAddress
from agent.model.workload import GatewayAddress

NO_PORTS: Mapping[int, int] = MappingProxyType({})


class Scope(Enum):
    """An attribute by which endpoints are ranked against the client."""

    REGION = "Region"
    ZONE = "Zone"
    SUBZONE = "Subzone"
    NODE = "Node"
    CLUSTER = "Cluster"
    NETWORK = "Network"


class Mode(Enum):
    STANDARD = "Standard"
    STRICT = "Strict"
    FAILOVER = "Failover"
    PASSTHROUGH = "Passthrough"


class HealthPolicy(Enum):
    ONLY_HEALTHY = "OnlyHealthy"
    ALLOW_ALL = "AllowAll"


class IPFamilies(Enum):
    AUTOMATIC = "Automatic"
    IPV4_ONLY = "IPv4"
    IPV6_ONLY = "IPv6"
    DUAL = "Dual"


class Visibility(Enum):
    PUBLIC = "Public"
    NAMESPACE = "Namespace"


@dataclass(frozen=True, slots=True)
class LoadBalancing:
    mode: Mode = Mode.STANDARD
    preferences: tuple[Scope, ...] = ()
    health_policy: HealthPolicy = HealthPolicy.ONLY_HEALTHY


@dataclass(frozen=True, slots=True)
class WeightedWaypoint:
    waypoint: GatewayAddress
    weight: int


@dataclass(frozen=True, slots=True)
class CidrVip:
    network: str
    cidr: CIDR


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    namespace: str
    hostname: str
    vips: tuple[NetworkAddress, ...] = ()
    cidr_vips: tuple[CidrVip, ...] = ()
    ports: Mapping[int, int] = field(default_factory=lambda: NO_PORTS, hash=False)
    """Service port -> target port; 0 means a named port, resolved per endpoint."""
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    load_balancing: LoadBalancing = LoadBalancing()
    ip_families: IPFamilies = IPFamilies.AUTOMATIC
    canonical: bool = False
    visibility: Visibility = Visibility.PUBLIC

    @property
    def key(self) -> NamespacedHostname:
        return NamespacedHostname(self.namespace, self.hostname)

    @property
    def listed_vips(self) -> list[str]:
        """Its addresses and ranges of them, as text."""
        return [*(str(vip.ip) for vip in self.vips), *(str(vip.cidr) for vip in self.cidr_vips)]
