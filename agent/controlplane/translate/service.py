"""Service to `istio.workload.Service`, field by field as istiod does it (docs/WIRE.md#translation). Pure."""

from __future__ import annotations

from agent.controlplane.read.objects import Namespace, Service, ServicePort
from agent.pb import workload_pb2 as wds

TRAFFIC_DISTRIBUTION = "networking.istio.io/traffic-distribution"
TCP_BY_NUMBER = frozenset({25, 53, 3306, 27017})
Port = wds.Port
Balancing = wds.LoadBalancing
CLOSE = (Balancing.NETWORK, Balancing.REGION, Balancing.ZONE)
PREFERENCES = {
    "preferclose": CLOSE,
    "prefersamezone": CLOSE,
    "prefersamenode": (*CLOSE, Balancing.SUBZONE, Balancing.NODE),
}
FIELD_VALUES = frozenset({"PreferClose", "PreferSameZone", "PreferSameNode"})
APP_PROTOCOLS = {
    "http": Port.HTTP11,
    "http2": Port.HTTP2,
    "grpc": Port.GRPC,
    "https": Port.TLS,
    "tls": Port.TLS,
    "tcp": Port.TCP,
    "kubernetes.io/h2c": Port.HTTP2,
    "kubernetes.io/ws": Port.HTTP11,
    "kubernetes.io/wss": Port.TLS,
}


def service_name(service: Service, domain: str) -> str:
    """The resource's name: `namespace/hostname`."""
    return f"{service.meta.namespace}/{hostname(service, domain)}"


def hostname(service: Service, domain: str) -> str:
    return f"{service.meta.name}.{service.meta.namespace}.svc.{domain}"


def translate_service(
    service: Service, namespace: Namespace | None, domain: str, network: str
) -> wds.Service:
    """`namespace` is the object of its namespace, if there is one: its annotation is a default."""
    message = wds.Service(
        name=service.meta.name,
        namespace=service.meta.namespace,
        hostname=hostname(service, domain),
        addresses=[
            wds.NetworkAddress(network=network, address=ip.packed) for ip in service.cluster_ips or ()
        ],
        ports=[
            Port(
                service_port=port.port,
                target_port=port.target if isinstance(port.target, int) else 0,
                app_protocol=app_protocol(port),
            )
            for port in service.ports
            # Node proxies relay TCP; a UDP port of the same number would take the TCP port's place there.
            if port.protocol == "TCP"
        ],
        ip_families=_families(service),
        canonical=True,
    )
    _balance(message, service, namespace)
    return message


def _families(service: Service) -> wds.IPFamilies:
    if len(service.families) > 1:
        return wds.DUAL
    return {(): wds.AUTOMATIC, ("IPv4",): wds.IPV4_ONLY}.get(service.families, wds.IPV6_ONLY)


def _balance(message: wds.Service, service: Service, namespace: Namespace | None) -> None:
    if service.is_node_local:
        message.load_balancing.mode = Balancing.STRICT
        message.load_balancing.routing_preference.append(Balancing.NODE)
    else:
        preferences = PREFERENCES.get(_distribution(service, namespace).lower(), ())
        if preferences:
            message.load_balancing.mode = Balancing.FAILOVER
            message.load_balancing.routing_preference.extend(preferences)
    if service.publishes_not_ready:
        message.load_balancing.health_policy = Balancing.ALLOW_ALL


def _distribution(service: Service, namespace: Namespace | None) -> str:
    """The field if it has a known value, else the annotation of the object, else that of its namespace."""
    if service.traffic_distribution in FIELD_VALUES:
        return service.traffic_distribution
    if TRAFFIC_DISTRIBUTION in service.meta.annotations:
        return service.meta.annotations[TRAFFIC_DISTRIBUTION]
    return namespace.meta.annotations.get(TRAFFIC_DISTRIBUTION, "") if namespace else ""


def app_protocol(port: ServicePort) -> wds.Port.AppProtocol:
    """From `appProtocol`, else the part of the name before `-`, else a few well-known numbers."""
    if port.app_protocol is not None:
        return APP_PROTOCOLS.get(port.app_protocol.lower(), Port.UNKNOWN)
    name = port.name.lower()
    first = name.partition("-")[0]
    if first in APP_PROTOCOLS:
        return Port.UNKNOWN if name.startswith("grpc-web") else APP_PROTOCOLS[first]
    return Port.TCP if port.port in TCP_BY_NUMBER else Port.UNKNOWN
