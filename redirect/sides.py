"""The two private namespaces, one for each side of the proxy, and the veth pair that leads into each.

Only sockets live in them: the pod side speaks to pods, the net side to everybody else (docs/KERNEL.md).
All of it is made by netlink, again on every start, and reads the same the second time. Knows no program
and no map; the numbers that those need are returned. Call from a thread in the node's network namespace.
"""

from __future__ import annotations

import errno
import hashlib
import re
import socket
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from redirect import netns, rt_rows
from redirect.errors import InstanceInUse, KernelTooOld, RedirectError
from redirect.rt_rows import FAMILIES, KERNEL_TABLE, MAIN_TABLE, RTN_LOCAL, RTN_UNICAST, Route, Rule

PROXY_ADDRESSES = ("169.254.77.1", "fd7a:7475:6e::1")
LOCAL_TABLE = 100
_TABLES = (MAIN_TABLE, KERNEL_TABLE, LOCAL_TABLE)
RULE_PREFERENCE, MAIN_PREFERENCE = 10, 32766
IFNAME_LIMIT = 15
LOOPBACK = 1

_SCOPE_HOST = 254
_IFA_F_NODAD = 0x02


@dataclass(frozen=True, slots=True)
class Side:
    """One private namespace and the device that leads there, of the same name at both ends."""

    namespace: str
    ifname: str

    @property
    def netns(self) -> Path:
        return netns.path_of(self.namespace)


@dataclass(frozen=True, slots=True)
class SideLink:
    """What programs need to know about a side: host ifindex, namespace id as the node sees it, MAC inside."""

    ifindex: int
    nsid: int
    inner_mac: bytes


def sides_of(instance: str) -> tuple[Side, Side]:
    """The pod side and the net side of an instance. Raises ValueError for a name that cannot be used."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", instance):
        raise ValueError(f"instance {instance!r}: want lower-case letters, digits and dashes, 31 at most")
    return (
        Side(f"{instance}-pod", _ifname(instance, "mo")),
        Side(f"{instance}-net", _ifname(instance, "mi")),
    )


def prepare(side: Side) -> SideLink:
    """Makes a side, or what is missing of it. What MTU it has stays: that is the pods' business.

    Raises InstanceInUse, OSError or NetlinkError.
    """
    path = netns.ensure(side.namespace)
    with netns.entered(path):
        _write_sysctls(_namespace_sysctls())
    ifindex, mtu_bytes = _ensure_veth(side, path)
    with netns.entered(path):
        _write_sysctls(_device_sysctls(side.ifname))
        with IPRoute() as ip:
            _configure_inside(ip, side.ifname, mtu_bytes)
    return _link(side, ifindex)


def set_mtu(side: Side, mtu_bytes: int) -> None:
    """Of both ends, as far as they are there. Raises OSError or NetlinkError."""
    # The end that is looked at comes last: it has the new MTU only when both have.
    with netns.entered(side.netns), IPRoute() as ip:
        _set_mtu(ip, side.ifname, mtu_bytes)
    with IPRoute() as ip:
        _set_mtu(ip, side.ifname, mtu_bytes)


def remove(side: Side) -> bool:
    """Removes the namespace and both ends of its veth. False: there was nothing."""
    existed = side.netns.exists()
    existed |= delete_device(side)
    netns.remove(side.namespace)
    return existed


def delete_device(side: Side) -> bool:
    """`ip link del DEV`: the other end goes with it. False: there was none."""
    with IPRoute() as ip:
        indexes = ip.link_lookup(ifname=side.ifname)
        for index in indexes:
            ip.link("del", index=index)
    return bool(indexes)


def node_settings(side: Side) -> dict[str, str]:
    """Sysctls of the node, by their path below /proc/sys: only for the device."""
    return {f"net/ipv6/conf/{side.ifname}/disable_ipv6": "1"}


def inner_settings(side: Side) -> dict[str, str]:
    """Sysctls of the side's namespace, by their path below /proc/sys."""
    return {**_namespace_sysctls(), **_device_sysctls(side.ifname)}


def _namespace_sysctls() -> dict[str, str]:
    return {
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/default/rp_filter": "0",
        "net/ipv6/conf/all/accept_dad": "0",
        "net/ipv4/tcp_migrate_req": "1",  # Linux 5.14: a closing listener hands its queue to another
        "net/ipv4/ip_local_port_range": "1024\t65535",
        "net/ipv4/tcp_tw_reuse": "1",
        "net/ipv4/tcp_timestamps": "1",
        # Both families: segments that nobody acknowledges become smaller, where no ICMP says that they are too large.
        "net/ipv4/tcp_mtu_probing": "1",
    }


def _device_sysctls(ifname: str) -> dict[str, str]:
    return {f"net/ipv4/conf/{ifname}/rp_filter": "0", f"net/ipv6/conf/{ifname}/accept_ra": "0"}


def _write_sysctls(wanted: dict[str, str]) -> None:
    """`sysctl -w NAME=VALUE` for each, in the namespace of the calling thread."""
    for name, value in wanted.items():
        path = Path("/proc/sys", name)
        if path.exists():
            path.write_text(value)


def _ensure_veth(side: Side, path: Path) -> tuple[int, int]:
    """The veth pair with its host end set up; that end's index, and its MTU."""
    with IPRoute() as ip, path.open("rb") as namespace:
        link = _host_link(ip, side)
        if link is not None and not _is_inside(side, path):
            # Renamed there, which its end here does not show; the other end goes with this one.
            ip.link("del", index=link["index"])  # ip link del DEV
            link = None
        if link is None:
            _refuse_taken_name(ip, side)
            _delete_renamed(side, path)
            # ip link add DEV type veth peer name DEV netns NAMESPACE
            _add_veth(ip, side, namespace.fileno())
        index = _index(ip, side.ifname)
        # Before it comes up: an address of its own would let the host answer on it.
        _write_sysctls(node_settings(side))
        ip.link("set", index=index, state="up")  # ip link set DEV up
        (link,) = ip.get_links(index)
        return index, int(link.get("mtu"))


def _delete_renamed(side: Side, path: Path) -> None:
    """The inner end of a pair whose end here has another name by now. One that leads elsewhere is left alone."""
    with netns.OWN.open("rb") as here, netns.entered(path), IPRoute() as ip:
        home = ip.get_netnsid(fd=here.fileno())["nsid"]
        for index in ip.link_lookup(ifname=side.ifname):
            (link,) = ip.get_links(index)
            if link.get("link_netnsid") == home:
                ip.link("del", index=index)  # ip link del DEV


def _set_mtu(ip: IPRoute, ifname: str, mtu_bytes: int) -> None:
    for index in ip.link_lookup(ifname=ifname):
        ip.link("set", index=index, mtu=mtu_bytes)  # ip link set DEV mtu MTU


def _add_veth(ip: IPRoute, side: Side, namespace_fd: int) -> None:
    try:
        ip.link(
            "add", ifname=side.ifname, kind="veth", peer={"ifname": side.ifname, "net_ns_fd": namespace_fd}
        )
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            raise KernelTooOld("the kernel has no veth devices: `modprobe veth` (CONFIG_VETH)") from error
        if error.code != errno.EEXIST:
            raise
        raise InstanceInUse(
            f"namespace {side.namespace} already has a device {side.ifname} whose other end is not in this network "
            "namespace: another node of this machine runs the same instance; choose another instance name"
        ) from error


def _refuse_taken_name(ip: IPRoute, side: Side) -> None:
    """A device of that name that leads elsewhere: left by an earlier namespace, or somebody else's."""
    for index in ip.link_lookup(ifname=side.ifname):
        (link,) = ip.get_links(index)
        raise InstanceInUse(
            f"device {side.ifname} ({link.get(('linkinfo', 'kind')) or 'physical'}) exists but does not lead into "
            f"namespace {side.namespace}: `ip link del {side.ifname}` if it is a left-over, or choose another instance"
        )


def _configure_inside(ip: IPRoute, ifname: str, mtu_bytes: int) -> None:
    index = _index(ip, ifname)
    # ip link set DEV arp off mtu MTU up: no neighbour discovery, every address is one hop away
    ip.link("set", index=index, arp=False, mtu=mtu_bytes, state="up")
    ip.link("set", index=LOOPBACK, state="up")  # ip link set lo up
    _set_defaults(ip, index)
    _set_rules(ip, ifname)
    _set_routes(ip)
    v4, v6 = PROXY_ADDRESSES
    ip.addr("replace", index=LOOPBACK, address=v4, prefixlen=32)  # ip addr replace V4/32 dev lo
    # ip addr replace V6/128 dev lo nodad
    ip.addr("replace", index=LOOPBACK, address=v6, prefixlen=128, family=socket.AF_INET6, flags=_IFA_F_NODAD)


def _set_defaults(ip: IPRoute, ifindex: int) -> None:
    """Those that are missing: replacing an IPv6 route forgets every path MTU that was learnt by it."""
    there = rt_rows.routes()
    for family in FAMILIES:
        if Route(family, MAIN_TABLE, RTN_UNICAST, ifindex) not in there:
            # ip [-6] route replace default dev DEV
            ip.route("replace", family=family, dst="default", oif=ifindex)
        if Route(family, LOCAL_TABLE, RTN_LOCAL, LOOPBACK) not in there:
            # ip [-6] route replace local default dev lo table 100
            scope = {"scope": _SCOPE_HOST} if family == socket.AF_INET else {}
            ip.route(
                "replace",
                family=family,
                type="local",
                dst="default",
                oif=LOOPBACK,
                table=LOCAL_TABLE,
                **scope,
            )


def proxy_routes() -> frozenset[Route]:
    """The kernel's local routes to the addresses of the proxy, which come with the addresses."""
    v4, v6 = PROXY_ADDRESSES
    return frozenset(
        {
            Route(socket.AF_INET, KERNEL_TABLE, RTN_LOCAL, LOOPBACK, v4, 32),
            Route(socket.AF_INET6, KERNEL_TABLE, RTN_LOCAL, LOOPBACK, v6, 128),
        }
    )


def foreign_routes() -> list[Route]:
    """Those that lead some destination elsewhere, or nowhere: of the calling thread's, a side's, namespace."""
    return sorted(
        (
            route
            for route in rt_rows.routes() - proxy_routes()
            if route.prefix and not route.is_kernels and route.table in _TABLES
        ),
        key=astuple,
    )


def _set_routes(ip: IPRoute) -> None:
    for route in foreign_routes():
        # ip [-6] route del TYPE DST/LEN table N
        ip.route(
            "del",
            family=route.family,
            dst=f"{route.destination}/{route.prefix}",
            table=route.table,
            type=route.kind,
        )
    missing = proxy_routes() - rt_rows.routes()
    for route in missing:
        # Its address may still be there, and brings it along only when it is made.
        for entry in ip.get_addr(index=LOOPBACK, family=route.family):
            if entry.get("address") == route.destination:
                ip.addr("del", index=LOOPBACK, address=route.destination, prefixlen=route.prefix)


def wanted_rules(ifname: str) -> frozenset[Rule]:
    """The rules of a side's namespace up to the main table's; nobody else has any there."""
    return frozenset(
        rule
        for family in FAMILIES
        for rule in (
            Rule(family, 0, "", KERNEL_TABLE),
            Rule(family, RULE_PREFERENCE, ifname, LOCAL_TABLE),
            Rule(family, MAIN_PREFERENCE, "", MAIN_TABLE),
        )
    )


def _set_rules(ip: IPRoute, ifname: str) -> None:
    """Exactly the wanted ones: one of somebody else may lead packets away, or drop them."""
    wanted, there = wanted_rules(ifname), rt_rows.rules()
    for rule in there - wanted:
        if rule.preference <= MAIN_PREFERENCE:
            # ip [-6] rule flush pref N; the kernel leaves out a preference of 0
            ip.flush_rules(family=rule.family, priority=rule.preference or None)
    for rule in wanted - rt_rows.rules():
        # ip [-6] rule add [iif DEV] lookup TABLE pref N
        device = {"iifname": rule.iifname} if rule.iifname else {}
        ip.rule("add", family=rule.family, table=rule.table, priority=rule.preference, **device)


def _host_link(ip: IPRoute, side: Side) -> Any | None:
    """The host end of a side's veth, if it leads into the side's namespace."""
    for index in ip.link_lookup(ifname=side.ifname):
        (link,) = ip.get_links(index)
        if link.get(("linkinfo", "kind")) == "veth" and _nsid(ip, side.netns) == link.get("link_netnsid"):
            return link
    return None


def _is_inside(side: Side, path: Path) -> bool:
    with netns.entered(path), IPRoute() as ip:
        return bool(ip.link_lookup(ifname=side.ifname))


def _nsid(ip: IPRoute, path: Path) -> int | None:
    """The number by which the node knows another namespace: `ip netns list-id`."""
    with path.open("rb") as namespace:
        found = ip.get_netnsid(fd=namespace.fileno())["nsid"]
    return int(found) if found >= 0 else None


def _link(side: Side, ifindex: int) -> SideLink:
    with IPRoute() as ip:
        nsid = _nsid(ip, side.netns)
    if nsid is None:
        raise RedirectError(f"namespace {side.namespace} has no id here although {side.ifname} leads into it")
    with netns.entered(side.netns), IPRoute() as ip:
        (link,) = ip.get_links(_index(ip, side.ifname))
    return SideLink(ifindex, nsid, bytes.fromhex(str(link.get("address")).replace(":", "")))


def _index(ip: IPRoute, ifname: str) -> int:
    """Raises RedirectError when the device went between two looks."""
    for index in ip.link_lookup(ifname=ifname):
        return int(index)
    raise RedirectError(f"device {ifname} went while it was set up: is somebody else removing it?")


def _ifname(instance: str, suffix: str) -> str:
    name = f"{instance}-{suffix}"
    if len(name) <= IFNAME_LIMIT:
        return name
    digest = hashlib.sha256(instance.encode()).hexdigest()[:6]
    return f"{instance[: IFNAME_LIMIT - len(digest) - len(suffix) - 2]}-{digest}-{suffix}"
