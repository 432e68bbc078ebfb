"""Reads addresses, routes, rules and packet counters of the calling thread's network namespace, raw.

What looks at the private namespaces again and again must be cheap. Layouts: include/uapi/linux/rtnetlink.h,
if_addr.h, fib_rules.h, if_link.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from redirect import netlink
from redirect.layout import IP
from redirect.words import Words

RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE, RTM_GETSTATS = 22, 26, 34, 94
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_METRICS, RTA_TABLE = 1, 4, 6, 8, 15
RTPROT_KERNEL = 2
RTN_UNICAST, RTN_LOCAL = 1, 2
RTM_F_CLONED = 0x200
"""Not set up by anybody: what was learnt of one destination, its path MTU or another gateway (`ip route show cache`).
Lists have these among the routes."""
FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK = 3, 6, 10, 15, 16
IFLA_STATS_LINK_64 = 1
MAIN_TABLE, KERNEL_TABLE = 254, 255
FAMILIES = (socket.AF_INET, socket.AF_INET6)

_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_STATS = struct.Struct("=BBHII")
_COUNTERS = struct.Struct("=QQ")
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Route:
    """A route. `kind`: RTN_UNICAST, RTN_LOCAL or another; `destination` with `prefix` 0: every one."""

    family: int
    table: int
    kind: int
    oif: int
    destination: str = ""
    prefix: int = 0
    is_kernels: bool = field(default=False, compare=False)
    """The kernel made it by itself."""
    metric: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that sends what comes in by an interface, or everything (no name), to a table; 0: to none.

    `mark` and `mask`: only packets with that mark; 0: whatever they have.
    """

    family: int
    preference: int
    iifname: str
    table: int
    mark: int = 0
    mask: int = 0


@dataclass(frozen=True, slots=True)
class PacketCount:
    """Of one interface, since it was made."""

    received: int = 0
    sent: int = 0


def addresses(ifindex: int = 0) -> list[tuple[int, IP]]:
    """(ifindex, address) of all interfaces or one: `ip addr show [dev IF]`. Raises OSError, also for one that is gone.

    Of one it takes no longer where there are hundreds, each of which has an address of its own.
    """
    request = _ADDRESS.pack(0, 0, 0, 0, ifindex)
    bodies = netlink.ask(RTM_GETADDR, request, netlink.NLM_F_DUMP, is_strict=bool(ifindex))
    return [row for row in _words.rows(bodies) if row is not None]


def _address(body: bytes) -> tuple[int, IP] | None:
    """None: of another family."""
    family, _, _, _, ifindex = _ADDRESS.unpack_from(body)
    if family not in FAMILIES:
        return None
    known = netlink.attributes(body[_ADDRESS.size :])
    raw = known.get(IFA_LOCAL) or known[IFA_ADDRESS]
    return ifindex, IPv4Address(raw) if family == socket.AF_INET else IPv6Address(raw)


_words = Words(_address)


def routes() -> frozenset[Route]:
    """Of both families and all tables, without what was learnt: `ip [-6] route show table all`. Raises OSError."""
    found = set()
    for asked in FAMILIES:
        request = _ROUTE.pack(asked, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in netlink.ask(RTM_GETROUTE, request, netlink.NLM_F_DUMP):
            family, prefix, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(body)
            if flags & RTM_F_CLONED:
                continue
            known = netlink.attributes(body[_ROUTE.size :])
            destination = socket.inet_ntop(family, known[RTA_DST]) if RTA_DST in known and prefix else ""
            table, oif = _u32(known, RTA_TABLE, table), _u32(known, RTA_OIF)
            is_kernels, metric = protocol == RTPROT_KERNEL, _u32(known, RTA_PRIORITY)
            found.add(Route(family, table, kind, oif, destination, prefix, is_kernels, metric))
    return frozenset(found)


def rules() -> frozenset[Rule]:
    """Of both families: `ip [-6] rule show`. Raises OSError."""
    found = set()
    for asked in FAMILIES:
        request = _ROUTE.pack(asked, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in netlink.ask(RTM_GETRULE, request, netlink.NLM_F_DUMP):
            family, _, _, _, table, *_ = _ROUTE.unpack_from(body)
            known = netlink.attributes(body[_ROUTE.size :])
            iifname = netlink.text(known.get(FRA_IIFNAME, b""))
            # The kernel leaves out a preference of 0.
            preference, table = _u32(known, FRA_PRIORITY), _u32(known, FRA_TABLE, table)
            mark, mask = _u32(known, FRA_FWMARK), _u32(known, FRA_FWMASK)
            found.add(Rule(family, preference, iifname, table, mark, mask))
    return frozenset(found)


def packet_counts() -> dict[int, PacketCount]:
    """Packets of each interface by its index: `ip -s link show`. Raises OSError."""
    found = {}
    request = _STATS.pack(0, 0, 0, 0, 1 << (IFLA_STATS_LINK_64 - 1))
    for body in netlink.ask(RTM_GETSTATS, request, netlink.NLM_F_DUMP):
        _, _, _, ifindex, _ = _STATS.unpack_from(body)
        # The one attribute that was asked for.
        for kind, start, _ in netlink.spans(body, _STATS.size, len(body)):
            if kind == IFLA_STATS_LINK_64:
                found[ifindex] = PacketCount(*_COUNTERS.unpack_from(body, start))
    return found


def _u32(known: netlink.Attributes, kind: int, default: int = 0) -> int:
    return int(_U32.unpack(known[kind])[0]) if kind in known else default
