"""Makes and removes links, addresses, routes, rules, qdiscs and filters by rtnetlink; `ip` and `tc` by name at each.

Raw like what reads them, so that an agent holds no library in memory for what it does a few times a day. In the
calling thread's network namespace; every call raises OSError with the kernel's errno. Layouts:
include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h, pkt_cls.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from redirect import netlink
from redirect.layout import IP
from redirect.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attribute
from redirect.rt_rows import (
    FRA_FWMARK,
    FRA_FWMASK,
    FRA_IIFNAME,
    FRA_PRIORITY,
    FRA_TABLE,
    IFA_ADDRESS,
    IFA_LOCAL,
    RTA_DST,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTN_LOCAL,
    Route,
    Rule,
)
from redirect.rtnetlink import IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, RTM_NEWLINK
from redirect.tc_rows import INGRESS_PLACE, TCA_BPF_NAME, TCA_KIND, TCA_OPTIONS

RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE = 17, 20, 21, 24, 25
RTM_NEWRULE, RTM_DELRULE, RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER = 32, 33, 36, 37, 44, 45
IFF_UP, IFF_NOARP = 0x1, 0x80
IFLA_INFO_DATA, VETH_INFO_PEER, IFLA_NET_NS_FD = 2, 1, 28
IFA_F_NODAD = 0x02
RTPROT_STATIC = 4
SCOPE_LINK, SCOPE_HOST, SCOPE_NOWHERE = 253, 254, 255
FR_ACT_TO_TBL = 1
CLSACT, CLSACT_HANDLE = "clsact", 0xFFFF0000
TCA_BPF_CLASSID, TCA_BPF_FD, TCA_BPF_FLAGS, BPF_DIRECT_ACTION = 3, 6, 8, 1
PROTOCOL_ALL_BE = socket.htons(0x0003)

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_TC = struct.Struct("=BxxxiIII")
_U32 = struct.Struct("=I")
_MAKE = NLM_F_CREATE | NLM_F_EXCL
_PUT = NLM_F_CREATE | NLM_F_REPLACE


def add_veth(ifname: str, namespace_fd: int) -> None:
    """`ip link add IFNAME type veth peer name IFNAME netns NAMESPACE`"""
    name = _text(IFLA_IFNAME, ifname)
    peer = _LINK.pack(0, 0, 0, 0, 0) + name + _u32(IFLA_NET_NS_FD, namespace_fd)
    info = _text(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    _do(RTM_NEWLINK, _LINK.pack(0, 0, 0, 0, 0) + name + attribute(IFLA_LINKINFO, info), _MAKE)


def set_up(ifindex: int, *, has_arp: bool = True) -> None:
    """`ip link set DEV up`; without ARP: `ip link set DEV arp off up`."""
    noarp = 0 if has_arp else IFF_NOARP
    _do(RTM_NEWLINK, _LINK.pack(0, 0, ifindex, IFF_UP | noarp, IFF_UP | noarp))


def set_mtu(ifindex: int, mtu_bytes: int) -> None:
    """`ip link set DEV mtu MTU`"""
    _do(RTM_NEWLINK, _LINK.pack(0, 0, ifindex, 0, 0) + _u32(IFLA_MTU, mtu_bytes))


def delete_link(ifindex: int) -> None:
    """`ip link del DEV`: the other end of a veth goes with it."""
    _do(RTM_DELLINK, _LINK.pack(0, 0, ifindex, 0, 0))


def put_address(ifindex: int, address: IP) -> None:
    """`ip addr replace ADDRESS/32 dev DEV`; of IPv6 `ADDRESS/128 nodad`."""
    _do(RTM_NEWADDR, _address(ifindex, address), _PUT)


def delete_address(ifindex: int, address: IP) -> None:
    """`ip addr del ADDRESS/32 dev DEV`, of IPv6 /128."""
    _do(RTM_DELADDR, _address(ifindex, address))


def put_route(route: Route) -> None:
    """`ip [-6] route replace [local] DST dev DEV table TABLE`"""
    scope = 0
    if route.family == socket.AF_INET:
        scope = SCOPE_HOST if route.kind == RTN_LOCAL else SCOPE_LINK
    _do(RTM_NEWROUTE, _route(route, scope, RTPROT_STATIC), _PUT)


def delete_route(route: Route) -> None:
    """`ip [-6] route del TYPE DST dev DEV table TABLE`"""
    # IPv4 compares the scope unless it is this one; of IPv6 the metric tells one kind of route from another.
    _do(RTM_DELROUTE, _route(route, SCOPE_NOWHERE, 0))


def add_rule(rule: Rule) -> None:
    """`ip [-6] rule add [iif DEV] [fwmark MARK/MASK] lookup TABLE pref N`"""
    _do(RTM_NEWRULE, _rule(rule, FR_ACT_TO_TBL), _MAKE)


def delete_rule(rule: Rule) -> None:
    """`ip [-6] rule del ... pref N`: the first that matches, whatever it does with a packet."""
    _do(RTM_DELRULE, _rule(rule, 0))


def flush_rules(family: int, preference: int) -> None:
    """Every rule of that preference: `ip [-6] rule flush pref N`."""
    try:
        while True:
            delete_rule(Rule(family, preference, "", 0))
    except FileNotFoundError:
        return


def add_clsact(ifindex: int) -> None:
    """`tc qdisc add dev DEV clsact`"""
    _do(RTM_NEWQDISC, _clsact(ifindex), _MAKE)


def delete_clsact(ifindex: int) -> None:
    """`tc qdisc del dev DEV clsact`"""
    _do(RTM_DELQDISC, _clsact(ifindex))


def put_filter(ifindex: int, parent: int, priority: int, handle: int, prog_fd: int, name: str) -> None:
    """`tc filter replace dev DEV ingress|egress prio N handle H bpf direct-action fd PROG`"""
    options = (
        _u32(TCA_BPF_CLASSID, 1)
        + _u32(TCA_BPF_FD, prog_fd)
        + _text(TCA_BPF_NAME, name)
        + _u32(TCA_BPF_FLAGS, BPF_DIRECT_ACTION)
    )
    body = _filter(ifindex, parent, priority, handle) + attribute(TCA_OPTIONS, options)
    _do(RTM_NEWTFILTER, body, _PUT)


def delete_filter(ifindex: int, parent: int, priority: int, handle: int) -> None:
    """`tc filter del dev DEV ingress|egress prio N handle H bpf`"""
    _do(RTM_DELTFILTER, _filter(ifindex, parent, priority, handle))


def _address(ifindex: int, address: IP) -> bytes:
    family, flags = (socket.AF_INET, 0) if address.version == 4 else (socket.AF_INET6, IFA_F_NODAD)
    head = _ADDRESS.pack(family, address.max_prefixlen, flags, 0, ifindex)
    return head + attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)


def _route(route: Route, scope: int, protocol: int) -> bytes:
    head = _ROUTE.pack(route.family, route.prefix, 0, 0, 0, protocol, scope, route.kind, 0)
    rest = _u32(RTA_TABLE, route.table)
    if route.prefix:
        rest += attribute(RTA_DST, ip_address(route.destination).packed)
    if route.oif:
        rest += _u32(RTA_OIF, route.oif)
    if route.metric:
        rest += _u32(RTA_PRIORITY, route.metric)
    return head + rest


def _rule(rule: Rule, action: int) -> bytes:
    body = _ROUTE.pack(rule.family, 0, 0, 0, 0, 0, 0, action, 0) + _u32(FRA_PRIORITY, rule.preference)
    if rule.table:
        body += _u32(FRA_TABLE, rule.table)
    if rule.iifname:
        body += _text(FRA_IIFNAME, rule.iifname)
    if rule.mark:
        body += _u32(FRA_FWMARK, rule.mark) + _u32(FRA_FWMASK, rule.mask)
    return body


def _clsact(ifindex: int) -> bytes:
    return _TC.pack(0, ifindex, CLSACT_HANDLE, INGRESS_PLACE, 0) + _text(TCA_KIND, CLSACT)


def _filter(ifindex: int, parent: int, priority: int, handle: int) -> bytes:
    return _TC.pack(0, ifindex, handle, parent, priority << 16 | PROTOCOL_ALL_BE) + _text(TCA_KIND, "bpf")


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _do(kind: int, body: bytes, flags: int = 0) -> None:
    netlink.ask(kind, body, flags | NLM_F_ACK)
