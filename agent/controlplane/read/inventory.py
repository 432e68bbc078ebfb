"""The objects of the mesh by kind: what `admission` lets stand, as `translate` wants it. Pure."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agent.controlplane.read.mesh_objects import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    ServiceEntry,
    WorkloadEntry,
)
from agent.controlplane.read.objects import (
    AuthorizationPolicy,
    ConnectionLimit,
    MeshConfig,
    Namespace,
    Node,
    Object,
    PeerAuthentication,
    Pod,
    Service,
)

T = TypeVar("T", bound=Object)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The objects of the mesh, by kind, each in a stable order."""

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Collection[Pod] = ()
    services: tuple[Service, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    workload_entries: tuple[WorkloadEntry, ...] = ()
    service_entries: tuple[ServiceEntry, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    gateway_classes: tuple[GatewayClass, ...] = ()
    policies: tuple[AuthorizationPolicy, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    connection_limits: tuple[ConnectionLimit, ...] = ()
    mesh_configs: tuple[MeshConfig, ...] = ()

    def placed(self) -> Iterator[Object]:
        """The objects that are in a namespace, but mesh configs."""
        for objects in (self.pods, self.services, self.slices, self.workload_entries):
            yield from objects
        for others in (self.service_entries, self.gateways):
            yield from others
        for guards in (self.policies, self.peer_authentications, self.connection_limits):
            yield from guards

    def where(self, counts: Callable[[Object], bool]) -> Inventory:
        """Of what is in a namespace, what counts; all of the rest."""
        return dataclasses.replace(
            self,
            pods=tuple(filter(counts, self.pods)),
            services=tuple(filter(counts, self.services)),
            slices=tuple(filter(counts, self.slices)),
            workload_entries=tuple(filter(counts, self.workload_entries)),
            service_entries=tuple(filter(counts, self.service_entries)),
            gateways=tuple(filter(counts, self.gateways)),
            policies=tuple(filter(counts, self.policies)),
            peer_authentications=tuple(filter(counts, self.peer_authentications)),
            connection_limits=tuple(filter(counts, self.connection_limits)),
        )


def collect(objects: Iterable[Object]) -> Inventory:
    """The inventory of objects without clashes."""
    by_kind: defaultdict[type, list[Object]] = defaultdict(list)
    for made in objects:
        by_kind[type(made)].append(made)

    def of(kind: type[T]) -> tuple[T, ...]:
        return tuple(o for o in by_kind[kind] if isinstance(o, kind))

    return Inventory(
        namespaces={o.meta.name: o for o in of(Namespace)},
        nodes={o.meta.name: o for o in of(Node)},
        pods=of(Pod),
        services=of(Service),
        slices=of(EndpointSlice),
        workload_entries=of(WorkloadEntry),
        service_entries=of(ServiceEntry),
        gateways=of(Gateway),
        gateway_classes=of(GatewayClass),
        policies=of(AuthorizationPolicy),
        peer_authentications=of(PeerAuthentication),
        connection_limits=of(ConnectionLimit),
        mesh_configs=of(MeshConfig),
    )
