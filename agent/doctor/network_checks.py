"""Checks of the node's network as ztun meets it: forwarding, settings of the private namespaces, sizes, tables."""

from __future__ import annotations

import socket
from pathlib import Path

from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site
from redirect import netns, rt_rows, rtnetlink
from redirect.rt_rows import MAIN_TABLE, RTN_UNICAST
from redirect.rtnetlink import LinkRow
from redirect.side import sides_of

SYSCTLS = Path("/proc/sys")
FORWARDING4, FORWARDING6 = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"
CONNTRACK_COUNT, CONNTRACK_MAX = "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"
NEARLY = 0.9

FORWARDING = Subject("forwarding", f"sysctls {FORWARDING4}, {FORWARDING6}")
REVERSE_PATH = Subject(
    "rp_filter", "sysctls net.ipv4.conf.*.rp_filter, of the node and of the private namespaces"
)
CONNTRACK = Subject("connection tracking", f"sysctls {CONNTRACK_COUNT}, {CONNTRACK_MAX}")
INNER_MTU = Subject("inner MTU", "devices that lead to the proxy, and those of captured pods")
UPLINK_MTU = Subject("uplink MTU", "the device of the default route, and veths of pods")


def forwarding(_: Site) -> Check:
    off = [FORWARDING4] if _sysctl(FORWARDING4) == "0" else []
    has_global = any(
        address.version == 6 and address.is_global
        for _, address in rt_rows.addresses()
        if not address.is_loopback
    )
    if has_global and _sysctl(FORWARDING6) == "0":
        off.append(FORWARDING6)
    if off:
        return FORWARDING.failed(
            f"{' and '.join(off)} off: nothing goes from a pod to another or out of the node",
            "turn it on, and in /etc/sysctl.d for the next boot",
            f"sysctl -w {' '.join(f'{name}=1' for name in off)}",
        )
    return FORWARDING.ok("the node forwards")


def rp_filter(site: Site) -> Check:
    node = _sysctl("net.ipv4.conf.all.rp_filter")
    seen = f"{node} on the node, in nobody's way"
    for side in sides_of(site.instance):
        if not netns.is_namespace(side.netns):
            continue
        with netns.entered(side.netns):
            strict = [
                name
                for where in ("all", side.ifname)
                if _sysctl(name := f"net.ipv4.conf.{where}.rp_filter") not in ("0", None)
            ]
        if strict:
            return REVERSE_PATH.failed(
                f"{', '.join(strict)} of {side.namespace}: packets in the name of pods are dropped there",
                "set it back; the agent does so by itself when it is told to make all anew, at its start",
                f"nsenter --net={side.netns} sysctl -w {' '.join(f'{name}=0' for name in strict)}",
            )
        seen += f", 0 in {side.namespace}"
    return REVERSE_PATH.ok(seen)


def connection_tracking(_: Site) -> Check:
    count, most = _sysctl(CONNTRACK_COUNT), _sysctl(CONNTRACK_MAX)
    if count is None or most is None:
        return CONNTRACK.ok("none on this node")
    return judge_conntrack(int(count), int(most))


def judge_conntrack(count: int, most: int) -> Check:
    words = f"{count} of {most} places are taken"
    if most == 0 or count < NEARLY * most:  # 0: there is no limit
        return CONNTRACK.ok(words)
    return CONNTRACK.failed(
        f"{words}: when all are, the node drops new connections, its log says `nf_conntrack: table full`",
        "make the table larger, and in /etc/sysctl.d for the next boot",
        f"sysctl -w {CONNTRACK_MAX}={max(2 * count, 1024)}",
    )


def inner_mtu(site: Site) -> Check:
    with site.maps() as maps:
        if maps is None:
            return INNER_MTU.ok("no agent has run here")
        conf, captured = maps.conf(), maps.ifaces()
    links = rtnetlink.links()
    inner = [links[index] for index in (conf.pod_side_ifindex, conf.net_side_ifindex) if index in links]
    pods = [links[index] for index in captured if index in links]
    if not inner or not pods:
        return INNER_MTU.ok("no pod is captured" if inner else "the devices are not made yet")
    largest = max(pods, key=lambda link: link.mtu_bytes)
    small = [link for link in inner if link.mtu_bytes < largest.mtu_bytes]
    if small:
        return INNER_MTU.failed(
            f"{_sizes(small)}, and {largest.ifname} has {largest.mtu_bytes}: full packets of its pod are lost on the "
            "way to the proxy",
            "make it as large; the agent does so within seconds, unless something stops it",
            "; ".join(f"ip link set dev {link.ifname} mtu {largest.mtu_bytes}" for link in small),
        )
    return INNER_MTU.ok(f"{_sizes(inner)}, the largest of pods has {largest.mtu_bytes}")


def uplink_mtu(_: Site) -> Check:
    links = rtnetlink.links()
    ways = {
        route.oif
        for route in rt_rows.routes()
        if route.table == MAIN_TABLE
        and route.kind == RTN_UNICAST
        and not route.prefix
        and route.family == socket.AF_INET
    }
    uplinks = [links[index] for index in sorted(ways) if index in links]
    pods = [
        link
        for link in links.values()
        if link.kind == "veth" and link.peer_nsid is not None and link.mtu_bytes
    ]
    pods = [link for link in pods if link.has_arp]
    if not uplinks or not pods:
        return UPLINK_MTU.ok("there is no default route" if pods else "there are no pods")
    smallest, largest = min(uplinks, key=_mtu), max(pods, key=_mtu)
    if smallest.mtu_bytes < largest.mtu_bytes:
        return UPLINK_MTU.warning(
            f"{_sizes([smallest])}, and {largest.ifname} has {largest.mtu_bytes}: each large transfer out of the node "
            "begins with packets that are too big",
            "make the uplink as large where the network takes it, else the MTU of pods smaller, by the CNI",
            f"ip link set dev {smallest.ifname} mtu {largest.mtu_bytes}",
        )
    return UPLINK_MTU.ok(f"{_sizes([smallest])}, the largest of pods has {largest.mtu_bytes}")


def _sysctl(name: str) -> str | None:
    """Its value in the calling thread's network namespace; None where there is none."""
    try:
        return (SYSCTLS / name.replace(".", "/")).read_text().strip()
    except FileNotFoundError:
        return None


def _mtu(link: LinkRow) -> int:
    return link.mtu_bytes


def _sizes(links: list[LinkRow]) -> str:
    return ", ".join(f"{link.ifname} has MTU {link.mtu_bytes}" for link in links)


CHECKS = (
    Examination(FORWARDING, forwarding, is_of_network=True),
    Examination(REVERSE_PATH, rp_filter, is_of_network=True),
    Examination(CONNTRACK, connection_tracking, is_of_network=True),
    Examination(INNER_MTU, inner_mtu, is_of_network=True),
    Examination(UPLINK_MTU, uplink_mtu, is_of_network=True),
)
