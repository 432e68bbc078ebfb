"""ServiceEntry to `istio.workload.Service`, one for each host, field by field as istiod does it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.meta import IPRange
from agent.controlplane.read.objects import Namespace
from agent.controlplane.translate.ports import tcp_ports
from agent.controlplane.translate.service import PREFERENCES, TRAFFIC_DISTRIBUTION
from agent.model.address import NetworkAddress
from agent.pb import workload_pb2 as wds

Port, Balancing = wds.Port, wds.LoadBalancing
PROTOCOLS: Mapping[str, wds.Port.AppProtocol] = {
    "HTTP": Port.HTTP11,
    "HTTP2": Port.HTTP2,
    "GRPC": Port.GRPC,
    "HTTPS": Port.TLS,
    "TLS": Port.TLS,
    "TCP": Port.TCP,
}


def host_name(entry: ServiceEntry, host: str) -> str:
    """The resource's name."""
    return f"{entry.meta.namespace}/{host}"


def translate_host(
    entry: ServiceEntry,
    host: str,
    namespace: Namespace | None,
    network: str,
    *,
    is_canonical: bool,
    is_private: bool,
) -> wds.Service:
    """`is_private`: only its own namespace sees it. `namespace`: the object, if there is one."""
    message = wds.Service(
        name=entry.meta.name,
        namespace=entry.meta.namespace,
        hostname=host,
        addresses=[_network_address(network, each) for each in host_addresses(entry, host)],
        ports=[
            Port(
                service_port=port.number,
                target_port=port.target or port.number,
                app_protocol=PROTOCOLS.get(port.protocol, Port.UNKNOWN),
            )
            for port in tcp_ports(entry)
        ],
        subject_alt_names=entry.alt_names,
        canonical=is_canonical,
        visibility=wds.Service.NAMESPACE if is_private else wds.Service.PUBLIC,
    )
    _balance(message, entry, namespace)
    return message


def host_addresses(entry: ServiceEntry, host: str) -> tuple[IPRange, ...]:
    """Its own, else those that were given to it."""
    if entry.addresses:
        return entry.addresses
    is_any = entry.resolution == "DYNAMIC_DNS"
    if entry.resolution == "NONE" or not entry.is_automatic or (host.startswith("*") and not is_any):
        return ()
    return tuple((ip, ip.max_prefixlen) for ip in entry.allocated.get(host, ()))


def aliases(entry: ServiceEntry, host: str, network: str) -> Iterator[str]:
    """Also a range is listed, by its own text."""
    for ip, length in host_addresses(entry, host):
        text = str(NetworkAddress(network, ip))
        yield text if length == ip.max_prefixlen else f"{text}/{length}"


def _network_address(network: str, address: IPRange) -> wds.NetworkAddress:
    ip, length = address
    found = wds.NetworkAddress(network=network, address=ip.packed)
    if length != ip.max_prefixlen:
        found.length = length
    return found


def _balance(message: wds.Service, entry: ServiceEntry, namespace: Namespace | None) -> None:
    if entry.resolution == "NONE":
        message.load_balancing.mode = Balancing.PASSTHROUGH
        message.load_balancing.health_policy = Balancing.ALLOW_ALL
        return
    default = namespace.meta.annotations.get(TRAFFIC_DISTRIBUTION, "") if namespace else ""
    wanted = entry.meta.annotations.get(TRAFFIC_DISTRIBUTION, default)
    preferences = PREFERENCES.get(wanted.lower(), ())
    if preferences:
        message.load_balancing.mode = Balancing.FAILOVER
        message.load_balancing.routing_preference.extend(preferences)
