"""Gateways to other networks: Gateways of class `istio-remote`, as workloads and as where workloads are reached. Pure.

What such a network holds is reached through its gateway by HBONE inside of HBONE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.controlplane.read.gateway_kinds import ADDRESS_TYPE, HOST_TYPE
from agent.controlplane.read.mesh_objects import Gateway
from agent.controlplane.translate.mesh import NETWORK_LABEL
from agent.controlplane.translate.waypoints import gateway_address
from agent.model.address import parse_ip
from agent.pb import workload_pb2 as wds

REMOTE_CLASS = "istio-remote"
ACCOUNT = "gateway.istio.io/service-account"


def network_of(gateway: Gateway) -> str:
    """The network that it leads to; empty where it is no such gateway."""
    is_tunnel = hbone_port(gateway) and gateway.class_name == REMOTE_CLASS and gateway.addresses
    return gateway.meta.labels.get(NETWORK_LABEL, "") if is_tunnel else ""


def hbone_port(gateway: Gateway) -> int:
    """Where it takes HBONE; 0 where it does not."""
    return next((each.port for each in gateway.listeners if each.protocol == "HBONE"), 0)


def gateways_by_network(gateways: Iterable[Gateway]) -> Mapping[str, wds.GatewayAddress]:
    """The way into each network: of several gateways the first by namespace and name."""
    found: dict[str, wds.GatewayAddress] = {}
    for gateway in sorted(gateways, key=lambda g: g.meta.key):
        network = network_of(gateway)
        address = gateway_address(gateway, network, hbone_port(gateway)) if network else None
        if address is not None:
            found.setdefault(network, address)
    return found


def gateway_names(gateway: Gateway) -> Iterator[tuple[str, str, str]]:
    """The workloads that it is, one for each address: resource name, type of the address and its value."""
    network = network_of(gateway)
    for kind, value in gateway.addresses if network else ():
        if kind in (ADDRESS_TYPE, HOST_TYPE):
            yield f"NetworkGateway/{network}/{value}/{hbone_port(gateway)}", kind, value


def translate_gateway(gateway: Gateway, trust_domain: str) -> Iterator[wds.Workload]:
    """`trust_domain` is empty for the default one."""
    for name, kind, value in gateway_names(gateway):
        yield wds.Workload(
            uid=name,
            name=name,
            namespace=gateway.meta.namespace,
            network=network_of(gateway),
            service_account=gateway.meta.annotations.get(ACCOUNT, ""),
            trust_domain=trust_domain,
            addresses=[parse_ip(value).packed] if kind == ADDRESS_TYPE else [],
            hostname=value if kind == HOST_TYPE else "",
        )
