"""Reads what routes and IPv6 settings of a namespace say about the size of packets. In the calling thread's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from redirect import netlink, rtnetlink
from redirect.packet_size import RouteSize
from redirect.routes import RTM_GETROUTE, hops
from redirect.rt_rows import RTA_METRICS, RTM_F_CLONED, RTN_UNICAST

# include/uapi/linux/rtnetlink.h
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_ROUTE = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")


def read() -> Iterator[tuple[int, RouteSize]]:
    """(ifindex, what is said) of each route that says something, and of each interface whose IPv6 MTU is its own."""
    for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        for body in netlink.ask(
            RTM_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), netlink.NLM_F_DUMP
        ):
            *_, kind, flags = _ROUTE.unpack_from(body)
            told = netlink.attributes(body[_ROUTE.size :])
            if RTA_METRICS not in told or kind != RTN_UNICAST or flags & RTM_F_CLONED:
                continue
            metrics = netlink.attributes(told[RTA_METRICS])
            size = RouteSize(version, _metric(metrics, _RTAX_MTU), _metric(metrics, _RTAX_ADVMSS))
            yield from ((ifindex, size) for ifindex, _ in hops(told))
    for link in rtnetlink.links().values():
        # sysctl net.ipv6.conf.DEV.mtu: a router advertisement may have lowered it
        path = Path("/proc/sys/net/ipv6/conf", link.ifname, "mtu")
        if path.exists():
            yield link.ifindex, RouteSize(6, int(path.read_text()))


def _metric(metrics: netlink.Attributes, kind: int) -> int:
    return int(_U32.unpack(metrics[kind])[0]) if kind in metrics else 0
