"""A namespace's routes (`ip route`), read raw as far as they say where packets go.

In the calling thread's network namespace. Only unicast routes of the main table: what a pod sends by rules of its
own is not known here. Layouts: struct rtmsg, rtnexthop of include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from redirect import netlink
from redirect.layout import IP
from redirect.rt_rows import RTM_F_CLONED

RTM_GETROUTE = 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 9, 15, 18
RT_TABLE_MAIN, RTN_UNICAST = 254, 1

_ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")
_EVERYWHERE = {socket.AF_INET: ip_network("0.0.0.0/0"), socket.AF_INET6: ip_network("::/0")}

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a network: by a gateway, or (None) straight over the link. Several hops are several of these."""

    network: Network
    ifindex: int
    gateway: IP | None = None
    metric: int = 0


def routes() -> tuple[Route, ...]:
    """The routes of both families. Raises OSError."""
    return of(listed())


def listed() -> list[bytes]:
    """All that the kernel says about routes of both families, a message for each. Raises OSError."""
    found: list[bytes] = []
    for family in _EVERYWHERE:
        found += netlink.ask(RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), netlink.NLM_F_DUMP)
    return found


def of(bodies: Iterable[bytes]) -> tuple[Route, ...]:
    """The routes that such messages are about."""
    return tuple(route for body in bodies for route in _routes(body))


def _routes(body: bytes) -> Iterator[Route]:
    family, bits, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    told = netlink.attributes(body[_ROUTE.size :])
    if RTA_TABLE in told:
        (table,) = _U32.unpack(told[RTA_TABLE])
    if table != RT_TABLE_MAIN or kind != RTN_UNICAST or flags & RTM_F_CLONED:
        return
    network = ip_network((told[RTA_DST], bits)) if RTA_DST in told else _EVERYWHERE[family]
    metric = _U32.unpack(told[RTA_PRIORITY])[0] if RTA_PRIORITY in told else 0
    for ifindex, hop in hops(told):
        yield Route(network, ifindex, _gateway(hop), metric)


def hops(told: netlink.Attributes) -> Iterator[tuple[int, netlink.Attributes]]:
    """The interface of each hop of a route, and its attributes, from those of the route."""
    if RTA_OIF in told:
        yield _U32.unpack(told[RTA_OIF])[0], told
    left = told.get(RTA_MULTIPATH, b"")
    while len(left) >= _HOP.size:
        length, _, _, ifindex = _HOP.unpack_from(left)
        yield ifindex, netlink.attributes(left[_HOP.size : length])
        left = left[(length + 3) & ~3 :]


def _gateway(told: netlink.Attributes) -> IP | None:
    if RTA_GATEWAY in told:
        return ip_address(told[RTA_GATEWAY])
    # A gateway of the other family: u16 family, address.
    return ip_address(told[RTA_VIA][2:]) if RTA_VIA in told else None
