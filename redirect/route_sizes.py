"""Reads what routes and IPv6 settings of a namespace say about the size of packets. In the calling thread's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from redirect import netlink, routes, rtnetlink
from redirect.packet_size import RouteSize
from redirect.rt_rows import RTA_METRICS, RTM_F_CLONED, RTN_UNICAST
from redirect.rtnetlink import LinkRow

# include/uapi/linux/rtnetlink.h
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_ROUTE = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_VERSIONS = {socket.AF_INET: 4, socket.AF_INET6: 6}


def read() -> Iterator[tuple[int, RouteSize]]:
    """(ifindex, what is said) of each route that says something, and of each interface whose IPv6 MTU is its own."""
    return of(routes.listed(), rtnetlink.links().values())


def of(bodies: Iterable[bytes], links: Iterable[LinkRow]) -> Iterator[tuple[int, RouteSize]]:
    """The same of what `routes.listed` told, and of the links of the calling thread's namespace."""
    for body in bodies:
        family, *_, kind, flags = _ROUTE.unpack_from(body)
        told = netlink.attributes(body[_ROUTE.size :])
        if RTA_METRICS not in told or kind != RTN_UNICAST or flags & RTM_F_CLONED or family not in _VERSIONS:
            continue
        metrics = netlink.attributes(told[RTA_METRICS])
        size = RouteSize(_VERSIONS[family], _metric(metrics, _RTAX_MTU), _metric(metrics, _RTAX_ADVMSS))
        yield from ((ifindex, size) for ifindex, _ in routes.hops(told))
    for link in links:
        # sysctl net.ipv6.conf.DEV.mtu: a router advertisement may have lowered it
        try:
            text = Path("/proc/sys/net/ipv6/conf", link.ifname, "mtu").read_text()
        except FileNotFoundError:
            continue
        yield link.ifindex, RouteSize(6, int(text))


def _metric(metrics: netlink.Attributes, kind: int) -> int:
    return int(_U32.unpack(metrics[kind])[0]) if kind in metrics else 0
