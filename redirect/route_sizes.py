"""Reads what routes and IPv6 settings of a namespace say about the size of packets. In the calling thread's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from redirect.packet_size import RouteSize
from redirect.rt_rows import RTM_F_CLONED

_RTN_UNICAST = 1


def read(ip: IPRoute) -> Iterator[tuple[int, RouteSize]]:
    """(ifindex, what is said) of each route that says something, and of each interface whose IPv6 MTU is its own."""
    for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        for route in ip.get_routes(family=family):
            metrics = route.get("metrics")
            if metrics is None or route["type"] != _RTN_UNICAST or route["flags"] & RTM_F_CLONED:
                continue
            size = RouteSize(version, int(metrics.get("mtu") or 0), int(metrics.get("advmss") or 0))
            yield from ((ifindex, size) for ifindex in _interfaces(route))
    for link in ip.get_links():
        # sysctl net.ipv6.conf.DEV.mtu: a router advertisement may have lowered it
        path = Path("/proc/sys/net/ipv6/conf", str(link.get("ifname")), "mtu")
        if path.exists():
            yield int(link["index"]), RouteSize(6, int(path.read_text()))


def _interfaces(route: Any) -> Iterator[int]:
    if route.get("oif"):
        yield int(route.get("oif"))
    for hop in route.get("multipath") or ():
        yield int(hop["oif"])
