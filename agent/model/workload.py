"""A Workload: one running instance (pod or VM), the unit of workload discovery.

Fields mirror `istio.workload.Workload` (docs/WIRE.md#mesh-state) after its conversions: defaults are
filled in, addresses are canonical, enumerations are closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from agent.model.address import IP, NamespacedHostname, NetworkAddress, SocketAddress
from agent.model.identity import DEFAULT_TRUST_DOMAIN, Identity, identity_of
from agent.model.limits import ConnectionLimit

EMPTY: Mapping[NamespacedHostname, Mapping[int, int]] = MappingProxyType({})


class TunnelProtocol(Enum):
    """How to reach a workload; the value is the word used in dumps."""

    NONE = "TCP"
    HBONE = "HBONE"


class WorkloadType(Enum):
    DEPLOYMENT = "deployment"
    CRONJOB = "cronjob"
    POD = "pod"
    JOB = "job"


class Health(Enum):
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


class TunnelToApplication(Enum):
    """What the application expects in front of the bytes."""

    NONE = "NONE"
    PROXY = "PROXY"


@dataclass(frozen=True, slots=True)
class ApplicationTunnel:
    protocol: TunnelToApplication
    port: int | None


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where a waypoint or a network gateway is; the port is that of its HBONE listener.

    Prints as `namespace/hostname:port`, `ip:port` or, in a network with a name, `network/ip:port`.
    """

    destination: NetworkAddress | NamespacedHostname
    hbone_port: int

    def __str__(self) -> str:
        where = self.destination
        if isinstance(where, NamespacedHostname):
            return f"{where}:{self.hbone_port}"
        at = SocketAddress(where.ip, self.hbone_port)
        return f"{where.network}/{at}" if where.network else str(at)


@dataclass(frozen=True, slots=True)
class Locality:
    region: str = ""
    zone: str = ""
    subzone: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    uid: str
    name: str
    namespace: str
    addresses: tuple[IP, ...] = ()
    network: str = ""
    protocol: TunnelProtocol = TunnelProtocol.NONE
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_account: str = "default"
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: WorkloadType = WorkloadType.DEPLOYMENT
    workload_name: str = ""
    native_tunnel: bool = False
    authorization_policies: tuple[str, ...] = ()
    status: Health = Health.HEALTHY
    cluster_id: str = "Kubernetes"
    hostname: str = ""
    services: Mapping[NamespacedHostname, Mapping[int, int]] = field(
        default_factory=lambda: EMPTY, hash=False
    )
    """Service key -> {service port -> target port of this workload}."""
    application_tunnel: ApplicationTunnel | None = None
    locality: Locality = Locality()
    host_network: bool = False
    capacity: int = 1
    limits: tuple[ConnectionLimit, ...] = ()
    """What each client of it may have; only an embedded control plane says that."""

    @property
    def identity(self) -> Identity:
        return identity_of(self.trust_domain, self.namespace, self.service_account)
