"""Which waypoint a Service or a workload is bound to, and why to none, as istiod decides it. Pure.

The reference is on the object, else on its namespace; one that cannot be followed does not fall back to the other.
A Gateway is a waypoint as soon as it has an address, whatever its class. Upstream has the labels in its reference of
resource labels (`istio.io/use-waypoint`, `istio.io/waypoint-for`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from agent.controlplane.read.gateway_kinds import ADDRESS_TYPE, HOST_TYPE
from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.mesh_objects import Gateway, GatewayClass, Listener, ServiceEntry, WorkloadEntry
from agent.controlplane.read.meta import Key, Meta
from agent.controlplane.read.objects import Namespace, Pod, Service
from agent.controlplane.translate.mesh import NAME_LABEL
from agent.model.address import parse_ip
from agent.pb import workload_pb2 as wds

USE, USE_NAMESPACE = "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"
CANARY, CANARY_NAMESPACE = "istio.io/use-waypoint-canary", "istio.io/use-waypoint-canary-namespace"
CANARY_WEIGHT = "istio.io/use-waypoint-canary-weight"
WAYPOINT_FOR = "istio.io/waypoint-for"
INGRESS_USE = "istio.io/ingress-use-waypoint"
INBOUND_BINDING = "ambient.istio.io/waypoint-inbound-binding"
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
MANAGED = "gateway.istio.io/managed"
CONTROLLERS = ("istio.io-mesh-controller", "istio.io-eastwest-controller")
NONE = "none"
TRAFFIC = ("service", "workload", "all", "none")
HBONE_PORT = 15008
OWN_CLASSES = ("istio-waypoint", "istio-agentgateway-waypoint")
"""Classes of waypoints, which are there without an object."""
PROXY_LISTENER = "istio.io/PROXY"
BINDING = re.compile(r"(NONE|PROXY)(?:/([1-9][0-9]{0,4}))?")
TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
"""What strconv.ParseBool takes for true."""

ACCEPTED, NOT_READY = "WaypointAccepted", "WaypointIsNotReady"
DENIED, UNSUPPORTED = "AttachmentDenied", "UnsupportedTrafficType"
Reference = tuple[str, str]
"""Namespace and name of a Gateway."""


@dataclass(frozen=True, slots=True)
class Binding:
    """`reason` as in Istio's condition `WaypointBound`, empty where no waypoint is asked for."""

    reason: str = ""
    asked: Reference = ("", "")
    gateway: Gateway | None = None


UNBOUND = Binding()


def reference(labels: Mapping[str, str], namespace: str) -> Reference | None:
    """What the labels of an object or a namespace ask for, itself being in that namespace."""
    name = labels.get(USE)
    if name is None or name == NONE:
        return None
    return labels.get(USE_NAMESPACE, namespace), name


def references(meta: Meta, labels: Mapping[str, str]) -> Iterator[Reference]:
    """Every gateway that these labels name."""
    if (found := reference(labels, meta.namespace)) is not None:
        yield found
    if CANARY in labels:
        yield labels.get(CANARY_NAMESPACE, meta.namespace), labels[CANARY]


class Waypoints:
    """The waypoints of a mesh. `network`: where their addresses are."""

    def __init__(
        self,
        gateways: Mapping[Key, Gateway],
        classes: Mapping[Key, GatewayClass],
        namespaces: Mapping[str, Namespace],
        network: str,
    ) -> None:
        self._gateways, self._classes, self._namespaces = gateways, classes, namespaces
        self._network = network

    @classmethod
    def of(cls, inventory: Inventory, network: str) -> Waypoints:
        gateways = {g.meta.key: g for g in inventory.gateways}
        classes = {c.meta.key: c for c in inventory.gateway_classes}
        return cls(gateways, classes, inventory.namespaces, network)

    # -- who is bound to what

    def of_service(self, meta: Meta, *, is_private: bool = False) -> Binding:
        """Of a Service or a ServiceEntry; `is_private`: only its own namespace sees it."""
        if meta.labels.get(MANAGED) in CONTROLLERS:
            return UNBOUND
        binding = self._bound(meta.namespace, meta.labels, ("service", "all"))
        if is_private and binding.gateway and binding.gateway.meta.namespace != meta.namespace:
            return Binding(DENIED, binding.asked)
        return binding

    def of_workload(self, namespace: str, labels: Mapping[str, str]) -> Binding:
        return self._bound(namespace, labels, ("workload", "all"))

    def _bound(self, namespace: str, labels: Mapping[str, str], traffic: tuple[str, ...]) -> Binding:
        asked = reference(labels if USE in labels else self._labels(namespace), namespace)
        return self._attached(asked, namespace, traffic) if asked else UNBOUND

    def _attached(self, asked: Reference, namespace: str, traffic: tuple[str, ...]) -> Binding:
        gateway = self._gateways.get(("Gateway", *asked))
        if gateway is None or not gateway.addresses:
            return Binding(NOT_READY, asked)
        if not self._lets_in(gateway, namespace):
            return Binding(DENIED, asked)
        if self.traffic_of(gateway) not in traffic:
            return Binding(UNSUPPORTED, asked)
        return Binding(ACCEPTED, asked, gateway)

    def canary_of(self, meta: Meta, primary: Gateway) -> tuple[Gateway, int] | None:
        """The second waypoint of a Service and its share in percent; None where there is none, or none in order."""
        source = self._canary_source(meta)
        if source is None:
            return None
        labels, annotations = source.labels, source.annotations
        asked = labels.get(CANARY_NAMESPACE, meta.namespace), labels[CANARY]
        weight = annotations.get(CANARY_WEIGHT, "0")
        binding = self._attached(asked, meta.namespace, ("service", "all"))
        if binding.gateway is None or binding.gateway is primary:
            return None
        is_share = weight.isascii() and weight.isdigit() and len(weight) <= 3 and int(weight) <= 100
        return (binding.gateway, int(weight)) if is_share else None

    def _canary_source(self, meta: Meta) -> Meta | None:
        """The object, or its namespace where that also names the first waypoint."""
        if CANARY in meta.labels:
            return meta
        namespace = self._namespaces.get(meta.namespace)
        if namespace and CANARY in namespace.meta.labels and USE not in meta.labels:
            return namespace.meta
        return None

    def _labels(self, namespace: str) -> Mapping[str, str]:
        found = self._namespaces.get(namespace)
        return found.meta.labels if found else {}

    def _lets_in(self, gateway: Gateway, namespace: str) -> bool:
        listener = self.listener_of(gateway)
        allows = listener.allows if listener else "Same"
        if allows == "Selector" and listener:
            return listener.selector.matches({NAME_LABEL: namespace, **self._labels(namespace)})
        return allows == "All" or (allows == "Same" and gateway.meta.namespace == namespace)

    # -- what a gateway is

    def listener_of(self, gateway: Gateway) -> Listener | None:
        """The one that its inbound binding leads to, else the one for HBONE."""
        tunnel, listeners = self.tunnel_of(gateway), gateway.listeners
        bound: Iterator[Listener] = iter(())
        if tunnel and tunnel.port:
            bound = (each for each in listeners if each.port == tunnel.port)
        elif tunnel and tunnel.protocol == wds.ApplicationTunnel.PROXY:
            bound = (each for each in listeners if each.protocol == PROXY_LISTENER)
        default = (each for each in listeners if (each.protocol, each.port) == ("HBONE", HBONE_PORT))
        return next(chain(bound, default), None)

    def traffic_of(self, gateway: Gateway) -> str:
        """For whom it is: a word of TRAFFIC, or another one, which is nobody."""
        kind = self._classes.get(("GatewayClass", "", gateway.class_name))
        default = kind.meta.labels.get(WAYPOINT_FOR, "service") if kind else "service"
        return gateway.meta.labels.get(WAYPOINT_FOR, default)

    def tunnel_of(self, gateway: Gateway) -> wds.ApplicationTunnel | None:
        """How its pods want what reaches them; None: as it comes, or not said as it should be."""
        kind = self._classes.get(("GatewayClass", "", gateway.class_name))
        default = kind.meta.annotations.get(INBOUND_BINDING, "") if kind else ""
        found = BINDING.fullmatch(gateway.meta.annotations.get(INBOUND_BINDING, default))
        if found is None:
            return None
        return wds.ApplicationTunnel(protocol=found[1], port=int(found[2] or 0))

    def instance_of(self, meta: Meta) -> Gateway | None:
        """The waypoint that a pod is an instance of; only one that has an address."""
        gateway = self._gateways.get(("Gateway", meta.namespace, meta.labels.get(GATEWAY_NAME, "")))
        return gateway if gateway and gateway.addresses else None

    def address_of(self, gateway: Gateway) -> wds.GatewayAddress | None:
        return gateway_address(gateway, self._network, HBONE_PORT)

    def is_for_ingress(self, meta: Meta) -> bool:
        """Whether ingress gateways go through the waypoint of this Service."""
        own = meta.labels.get(INGRESS_USE)
        word = self._labels(meta.namespace).get(INGRESS_USE, "") if own is None else own
        return word in TRUE


def gateway_address(gateway: Gateway, network: str, port: int) -> wds.GatewayAddress | None:
    """Its first host name, else its first IP address."""
    hosts = [value for kind, value in gateway.addresses if kind == HOST_TYPE]
    ips = [value for kind, value in gateway.addresses if kind == ADDRESS_TYPE]
    if hosts:
        name = wds.NamespacedHostname(namespace=gateway.meta.namespace, hostname=hosts[0])
        return wds.GatewayAddress(hostname=name, hbone_mtls_port=port)
    if ips:
        address = wds.NetworkAddress(network=network, address=parse_ip(ips[0]).packed)
        return wds.GatewayAddress(address=address, hbone_mtls_port=port)
    return None


def bind_service(message: wds.Service, meta: Meta, waypoints: Waypoints) -> None:
    """Fill in the waypoints of a Service or ServiceEntry."""
    is_private = message.visibility == wds.Service.NAMESPACE
    gateway = waypoints.of_service(meta, is_private=is_private).gateway
    if gateway is None:
        return
    message.ingress_use_waypoint = waypoints.is_for_ingress(meta)
    primary = waypoints.address_of(gateway)
    if primary is None:
        return
    message.waypoint.CopyFrom(primary)
    canary = waypoints.canary_of(meta, gateway)
    second = waypoints.address_of(canary[0]) if canary else None
    if canary and second:
        for destination, weight in ((primary, 100 - canary[1]), (second, canary[1])):
            message.weighted_waypoints.add(destination=destination, weight=weight)


def bind_workload(message: wds.Workload, meta: Meta, labels: Mapping[str, str], waypoints: Waypoints) -> None:
    """Fill in the waypoint that the `labels` ask for, or the application tunnel of a workload that is one itself."""
    instance = waypoints.instance_of(meta)
    if instance is not None:
        tunnel = waypoints.tunnel_of(instance)
        if tunnel is not None:
            message.application_tunnel.CopyFrom(tunnel)
        return
    gateway = waypoints.of_workload(meta.namespace, labels).gateway
    address = waypoints.address_of(gateway) if gateway else None
    if address is not None:
        message.waypoint.CopyFrom(address)


def bindings(
    inventory: Inventory, waypoints: Waypoints
) -> Iterator[tuple[Pod | WorkloadEntry | Service | ServiceEntry, Binding]]:
    """Of everything that can be bound."""
    services: tuple[Service | ServiceEntry, ...] = (*inventory.services, *inventory.service_entries)
    workloads: tuple[Pod | WorkloadEntry, ...] = (*inventory.pods, *inventory.workload_entries)
    for service in services:
        yield service, waypoints.of_service(service.meta)
    for workload in workloads:
        if waypoints.instance_of(workload.meta) is None:
            yield workload, waypoints.of_workload(workload.meta.namespace, workload.labels)


def references_of(made: WorkloadEntry | ServiceEntry) -> Iterator[Reference]:
    """Every gateway that an entry or its endpoints name."""
    labels = made.labels if isinstance(made, WorkloadEntry) else made.meta.labels
    yield from references(made.meta, labels)
    if isinstance(made, ServiceEntry):
        for endpoint in made.endpoints:
            yield from references(made.meta, endpoint.labels)
