"""Whom a pod on a bridge sends its packets to: pure judgement of its routes and its neighbours.

What is sent in a pod's name must go where the pod itself would send it, or switches, NetworkPolicy and machines on
its link see somebody else. The programs know one network that is reached straight and one gateway for the rest, of
each family; routes that need more are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from redirect.layout import IP, NO_MAC
from redirect.routes import Network, Route


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """What of the node is on a pod's link: the bridge, its MAC and every address that it has there."""

    mac: bytes
    addresses: Collection[IP] = frozenset()


@dataclass(frozen=True, slots=True)
class Way:
    """Where one family goes: `mac`, `gateway` and `prefix_bits` as a NextHop has them.

    `unknown`: a gateway that nobody has answered for, so that `mac` is not decided yet.
    """

    mac: bytes = NO_MAC
    gateway: IP | None = None
    prefix_bits: int = 0
    refusal: str = ""
    unknown: IP | None = None


def way_of(
    own: Collection[IP], routes: Iterable[Route], node: NodeEnd, neighbours: Mapping[IP, bytes]
) -> Way:
    """How a pod reaches others from its addresses of one family, the first of which counts.

    `routes`: those of the pod over its link; `neighbours`: MACs that it knows.
    """
    address = next(iter(own))
    mine = [route for route in routes if route.network.version == address.version and _is_for_hosts(route)]
    gateways = _gateways(mine)
    linked = _linked(address, mine)
    bits = linked.prefixlen
    near = [linked, *(_linked(other, mine) for other in own)]
    straight = [route.network for route in mine if route.gateway is None]
    apart = [network for network in straight if not _is_covered(network, near, gateways)]
    if apart:
        return Way(
            prefix_bits=bits,
            refusal=f"on its bridge it reaches {_join(apart)} without a gateway besides {linked}; only one such "
            "network of a family can be followed: give the pod addresses of one subnet, or routes by its gateway",
        )
    macs = {
        gateway: node.mac if gateway in node.addresses else neighbours.get(gateway) for gateway in gateways
    }
    if len(macs) > 1 and (None in macs.values() or len(set(macs.values())) > 1):
        return Way(
            prefix_bits=bits,
            refusal=f"on its bridge it uses more than one gateway ({_join(gateways)}); only one of a family can be "
            "followed: give the pod one gateway, or attach it with a routed CNI such as ptp",
        )
    if not gateways:
        return Way(prefix_bits=bits)
    gateway, mac = gateways[0], macs[gateways[0]]
    if mac is None:
        return Way(prefix_bits=bits, unknown=gateway)
    return Way(mac, None if gateway in node.addresses else gateway, bits)


def _gateways(routes: Iterable[Route]) -> tuple[IP, ...]:
    """Those that packets go by: where one network has several ways, the ones of the least metric."""
    least: dict[Network, int] = {}
    for route in routes:
        least[route.network] = min(route.metric, least.get(route.network, route.metric))
    used = {route.gateway for route in routes if route.gateway and route.metric == least[route.network]}
    return tuple(sorted(used, key=lambda ip: (ip.version, int(ip))))


def _linked(address: IP, routes: Iterable[Route]) -> Network:
    """The widest network with the address in it that is reached straight; the address alone where there is none."""
    straight = [route.network for route in routes if route.gateway is None and address in route.network]
    return min(straight, key=lambda each: each.prefixlen, default=ip_network(address))


def _is_covered(network: Network, near: Iterable[Network], gateways: Collection[IP]) -> bool:
    """Whether a network that is reached straight needs no entry of its own: it is near, or only names a gateway."""
    is_near = any(network[0] in each and network.prefixlen >= each.prefixlen for each in near)
    return is_near or (network.num_addresses == 1 and network[0] in gateways)


def _is_for_hosts(route: Route) -> bool:
    return not (route.network.is_multicast or route.network.is_link_local) or route.network.prefixlen == 0


def _join(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))
