"""The two private namespaces, one for each side of the proxy, and the veth pair that leads into each.

Only sockets live in them: the pod side speaks to pods, the net side to everybody else (docs/KERNEL.md).
All of it is made by netlink, again on every start, and reads the same the second time. Knows no program
and no map; the numbers that those need are returned. Call from a thread in the node's network namespace.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from ipaddress import ip_address
from pathlib import Path

from redirect import netns, rt_rows, rt_writes, rtnetlink
from redirect.errors import InstanceInUse, KernelTooOld, RedirectError
from redirect.rt_rows import FAMILIES, KERNEL_TABLE, MAIN_TABLE, RTN_LOCAL, RTN_UNICAST, Route, Rule
from redirect.rtnetlink import LinkRow
from redirect.side import Side

PROXY_ADDRESSES = ("169.254.77.1", "fd7a:7475:6e::1")
LOCAL_TABLE = 100
_TABLES = (MAIN_TABLE, KERNEL_TABLE, LOCAL_TABLE)
RULE_PREFERENCE, MAIN_PREFERENCE = 10, 32766
LOOPBACK = 1
ROUTE_TIMEOUT_S, ROUTE_POLL_S = 1.0, 0.002
SYSCTLS = "/proc/sys"


@dataclass(frozen=True, slots=True)
class SideLink:
    """What programs need to know about a side: host ifindex, namespace id as the node sees it, MAC inside."""

    ifindex: int
    nsid: int
    inner_mac: bytes


def prepare(side: Side, *, is_ours: bool = False, by_init: bool = False) -> SideLink:
    """Makes a side, or what is missing of it. What MTU it has stays: that is the pods' business.

    `is_ours`: the caller made it before, so that a device in it which leads elsewhere was ours and has been moved;
    `by_init`: its name would not last if it were mounted from here.
    Raises InstanceInUse or OSError.
    """
    path = netns.ensure(side.namespace, by_init=by_init)
    with netns.entered(path):
        write_sysctls(_namespace_sysctls())
    ifindex, mtu_bytes = _ensure_veth(side, path, is_ours)
    with netns.entered(path):
        write_sysctls(_device_sysctls(side.ifname))
        _configure_inside(side.ifname, mtu_bytes)
    return _link(side, ifindex)


def set_mtu(side: Side, mtu_bytes: int) -> None:
    """Of both ends, as far as they are there. Raises OSError."""
    # The end that is looked at comes last: it has the new MTU only when both have.
    with netns.entered(side.netns):
        _set_mtu(side.ifname, mtu_bytes)
    _set_mtu(side.ifname, mtu_bytes)


def remove(side: Side) -> bool:
    """Removes the namespace and both ends of its veth. False: there was nothing."""
    existed = side.netns.exists()
    existed |= delete_device(side)
    netns.remove(side.namespace)
    return existed


def delete_device(side: Side) -> bool:
    """Deletes the device, and the other end with it. False: there was none."""
    row = rtnetlink.named(side.ifname)
    if row is not None:
        rt_writes.delete_link(row.ifindex)
    return row is not None


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
        # Booted with ipv6.disable_ipv6=1 the devices of a new namespace have none, whatever the node's own have by now.
        "net/ipv6/conf/lo/disable_ipv6": "0",
        "net/ipv6/conf/all/accept_dad": "0",
        "net/ipv4/tcp_migrate_req": "1",  # Linux 5.14: a closing listener hands its queue to another
        "net/ipv4/ip_local_port_range": "1024\t65535",
        "net/ipv4/tcp_tw_reuse": "1",
        "net/ipv4/tcp_timestamps": "1",
        # Both families: segments that nobody acknowledges become smaller, where no ICMP says that they are too large.
        "net/ipv4/tcp_mtu_probing": "1",
    }


def _device_sysctls(ifname: str) -> dict[str, str]:
    return {
        f"net/ipv4/conf/{ifname}/rp_filter": "0",
        f"net/ipv6/conf/{ifname}/disable_ipv6": "0",
        f"net/ipv6/conf/{ifname}/accept_ra": "0",
    }


def write_sysctls(wanted: dict[str, str]) -> None:
    """`sysctl -w NAME=VALUE` for each, in the namespace of the calling thread."""
    for name, value in wanted.items():
        path = Path(SYSCTLS, name)
        if not path.exists() or path.read_text().split() == value.split():
            continue
        try:
            path.write_text(value)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # In a container they are read-only for everybody; our own mount of them may be written to.
            netns.call("mount", b"", SYSCTLS.encode(), b"", netns.MS_REMOUNT | netns.MS_BIND, None)
            path.write_text(value)


def _ensure_veth(side: Side, path: Path, is_ours: bool) -> tuple[int, int]:
    """The veth pair with its host end set up; that end's index, and its MTU."""
    link = _host_link(side)
    if link is not None and not _is_inside(side, path):
        # Renamed there, which its end here does not show; the other end goes with this one.
        rt_writes.delete_link(link.ifindex)
        link = None
    if link is None:
        _refuse_taken_name(side)
        _delete_inner(side, path, is_ours)
        with path.open("rb") as namespace:
            _add_veth(side, namespace.fileno())
        link = _named(side.ifname)
    # Before it comes up: an address of its own would let the host answer on it.
    write_sysctls(node_settings(side))
    rt_writes.set_up(link.ifindex)
    return link.ifindex, link.mtu_bytes


def _delete_inner(side: Side, path: Path, is_ours: bool) -> None:
    """The inner end of a pair whose end here was renamed, or moved where `is_ours`; the other end goes with it.

    Else one that leads elsewhere is left alone: another node of this machine may have made it.
    """
    with netns.OWN.open("rb") as here, netns.entered(path):
        link = rtnetlink.named(side.ifname)
        home = rtnetlink.nsid(Path(f"/proc/self/fd/{here.fileno()}"))
        if link is not None and (is_ours or link.peer_nsid == home is not None):
            rt_writes.delete_link(link.ifindex)


def _set_mtu(ifname: str, mtu_bytes: int) -> None:
    link = rtnetlink.named(ifname)
    if link is not None:
        rt_writes.set_mtu(link.ifindex, mtu_bytes)


def _add_veth(side: Side, namespace_fd: int) -> None:
    try:
        rt_writes.add_veth(side.ifname, namespace_fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise KernelTooOld("the kernel has no veth devices: `modprobe veth` (CONFIG_VETH)") from error
        if error.errno != errno.EEXIST:
            raise
        raise InstanceInUse(
            f"namespace {side.namespace} already has a device {side.ifname} whose other end is not in this network "
            "namespace: another node of this machine runs the same instance; choose another instance name"
        ) from error


def _refuse_taken_name(side: Side) -> None:
    """A device of that name that leads elsewhere: left by an earlier namespace, or somebody else's."""
    link = rtnetlink.named(side.ifname)
    if link is not None:
        raise InstanceInUse(
            f"device {side.ifname} ({link.kind or 'physical'}) exists but does not lead into "
            f"namespace {side.namespace}: `ip link del {side.ifname}` if it is a left-over, or choose another instance"
        )


def _configure_inside(ifname: str, mtu_bytes: int) -> None:
    ifindex = _named(ifname).ifindex
    rt_writes.set_mtu(ifindex, mtu_bytes)
    # No neighbour discovery: every address is one hop away.
    rt_writes.set_up(ifindex, has_arp=False)
    rt_writes.set_up(LOOPBACK)
    _set_defaults(ifindex)
    _set_rules(ifname)
    _set_routes()
    for address in PROXY_ADDRESSES:
        rt_writes.put_address(LOOPBACK, ip_address(address))
    _await_proxy_routes()


def _await_proxy_routes() -> None:
    """The route to an IPv6 address is made by a worker of the kernel (addrconf_dad_work), soon after the address.

    One that does not come is found when it is looked for again.
    """
    deadline_s = time.monotonic() + ROUTE_TIMEOUT_S
    while proxy_routes() - rt_rows.routes() and time.monotonic() < deadline_s:
        time.sleep(ROUTE_POLL_S)


def _set_defaults(ifindex: int) -> None:
    """Those that are missing: replacing an IPv6 route forgets every path MTU that was learnt by it."""
    there = rt_rows.routes()
    for route in _defaults(ifindex):
        if route not in there:
            rt_writes.put_route(route)


def _defaults(ifindex: int) -> Iterator[Route]:
    """Everything leaves by the device, and what comes in by it is the proxy's."""
    for family in FAMILIES:
        yield Route(family, MAIN_TABLE, RTN_UNICAST, ifindex)
        yield Route(family, LOCAL_TABLE, RTN_LOCAL, LOOPBACK)


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


def _set_routes() -> None:
    for route in foreign_routes():
        rt_writes.delete_route(route)
    for route in proxy_routes() - rt_rows.routes():
        # Its address may still be there, and brings it along only when it is made.
        address = ip_address(route.destination)
        if (LOOPBACK, address) in rt_rows.addresses():
            rt_writes.delete_address(LOOPBACK, address)


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


def _set_rules(ifname: str) -> None:
    """Exactly the wanted ones: one of somebody else may lead packets away, or drop them."""
    wanted = wanted_rules(ifname)
    foreign = {(rule.family, rule.preference) for rule in rt_rows.rules() - wanted}
    for family, preference in foreign:
        if preference <= MAIN_PREFERENCE:
            rt_writes.flush_rules(family, preference)
    for rule in wanted - rt_rows.rules():
        rt_writes.add_rule(rule)


def _host_link(side: Side) -> LinkRow | None:
    """The host end of a side's veth, if it leads into the side's namespace."""
    link = rtnetlink.named(side.ifname)
    if link is None or link.kind != "veth":
        return None
    return link if link.peer_nsid == rtnetlink.nsid(side.netns) is not None else None


def _is_inside(side: Side, path: Path) -> bool:
    with netns.entered(path):
        return rtnetlink.named(side.ifname) is not None


def _link(side: Side, ifindex: int) -> SideLink:
    nsid = rtnetlink.nsid(side.netns)
    if nsid is None:
        raise RedirectError(f"namespace {side.namespace} has no id here although {side.ifname} leads into it")
    with netns.entered(side.netns):
        return SideLink(ifindex, nsid, _named(side.ifname).mac)


def _named(ifname: str) -> LinkRow:
    """Raises RedirectError when the device went between two looks."""
    link = rtnetlink.named(ifname)
    if link is None:
        raise RedirectError(f"device {ifname} went while it was set up: is somebody else removing it?")
    return link
