"""Looks whether a side is whole: its device, what is set up in its namespace, the settings of both. Writes nothing.

Read raw and within a few milliseconds, because it is looked at every two seconds; `sides` makes what is missing.
Call from a thread in the node's network namespace.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from redirect import netns, rt_rows, rtnetlink, sides
from redirect.errors import WrongNode
from redirect.findings import Finding, Part
from redirect.rt_rows import MAIN_TABLE, RTN_LOCAL, RTN_UNICAST, Route
from redirect.rtnetlink import LinkRow
from redirect.side import Side, sides_of
from redirect.sides import LOCAL_TABLE, LOOPBACK, PROXY_ADDRESSES, SideLink


@dataclass(frozen=True, slots=True)
class SideView:
    """`link`: what programs need to know of the side; None: there is no device that leads there."""

    link: SideLink | None
    findings: tuple[Finding, ...]


def look(side: Side, namespace: Path, links: Mapping[int, LinkRow]) -> SideView:
    """One side as it is. `namespace`: a path that leads there, whatever its name; `links`: the node's."""
    number = rtnetlink.nsid(namespace)
    for row in links.values():
        if row.ifname == side.ifname and row.kind == "veth" and row.peer_nsid == number is not None:
            return _look_inside(side, row, number, namespace)
    reason = f"device {side.ifname} is missing or does not lead into {side.namespace}"
    return SideView(None, (Finding(Part.INNER_DEVICE, None, reason),))


def leads_elsewhere(side: Side) -> bool:
    """Whether the device inside a side's namespace has its other end in another namespace than the thread's."""
    with netns.OWN.open("rb") as here, netns.entered(side.netns):
        number = rtnetlink.nsid(Path(f"/proc/self/fd/{here.fileno()}"))
        return any(
            row.ifname == side.ifname and row.peer_nsid != number for row in rtnetlink.links().values()
        )


def require_here(instance: str) -> None:
    """Raises WrongNode where the devices lead from the private namespaces into another than the thread's."""
    for side in sides_of(instance):
        if netns.is_namespace(side.netns) and leads_elsewhere(side):
            raise WrongNode(
                f"namespace {side.namespace} belongs to another network namespace than this one: run it where the "
                f"agent ran (`nsenter --net={_home_of(side) or netns.path_of('NAME')} ztun ...`), or name another "
                "instance"
            )


def _home_of(side: Side) -> Path | None:
    """A path of the network namespace that a side belongs to. None: it has no name that is seen from here."""
    with netns.entered(side.netns):
        wanted = {row.peer_nsid for row in rtnetlink.links().values() if row.ifname == side.ifname} - {None}
        for path in (netns.INIT, *sorted(netns.RUN_DIR.glob("*"))):
            # Names come and go, and a crash leaves plain files.
            with suppress(OSError):
                if rtnetlink.nsid(path) in wanted:
                    return path
    return None


def _look_inside(side: Side, row: LinkRow, number: int, namespace: Path) -> SideView:
    found = [] if row.is_up else [f"device {side.ifname} is down"]
    found += _settings(sides.node_settings(side), "node")
    inner_mac = bytes(6)
    missing = []
    with netns.entered(namespace):
        inside = next((each for each in rtnetlink.links().values() if each.ifname == side.ifname), None)
        if inside is None:
            found.append(f"device {side.ifname} has another name in {side.namespace}")
        else:
            inner_mac = inside.mac
            if inside.has_arp:
                found.append(f"device {side.ifname} has ARP in {side.namespace}")
            if inside.mtu_bytes != row.mtu_bytes:
                found.append(
                    f"device {side.ifname} has MTU {row.mtu_bytes}, and {inside.mtu_bytes} at its other end"
                )
            missing += [f"{side.namespace}: {what} is missing" for what in _missing(inside)]
        missing += [f"{side.namespace}: {what}" for what in _rules(side)]
        missing += [
            f"{side.namespace}: somebody else has a route to {route.destination}/{route.prefix}"
            for route in sides.foreign_routes()
        ]
        missing += _settings(sides.inner_settings(side), side.namespace)
    return SideView(
        SideLink(row.ifindex, number, inner_mac),
        (
            *(Finding(Part.INNER_DEVICE, None, reason) for reason in found),
            *(Finding(Part.NAMESPACE, None, reason) for reason in missing),
        ),
    )


def _missing(inside: LinkRow) -> Iterator[str]:
    routes = rt_rows.routes()
    for family in rt_rows.FAMILIES:
        name = _family(family)
        if Route(family, MAIN_TABLE, RTN_UNICAST, inside.ifindex) not in routes:
            yield f"the {name} default route"
        if Route(family, LOCAL_TABLE, RTN_LOCAL, LOOPBACK) not in routes:
            yield f"the {name} local default route in table {LOCAL_TABLE}"
    have = {str(address) for ifindex, address in rt_rows.addresses() if ifindex == LOOPBACK}
    yield from (f"address {address}" for address in PROXY_ADDRESSES if address not in have)
    yield from (
        f"the local route to {route.destination}"
        for route in sorted(sides.proxy_routes() - routes, key=astuple)
        if route.destination in have
    )


def _rules(side: Side) -> Iterator[str]:
    wanted, there = sides.wanted_rules(side.ifname), rt_rows.rules()
    for rule in sorted(wanted - there, key=astuple):
        yield f"the {_family(rule.family)} rule for table {rule.table} is missing"
    for rule in sorted(there - wanted, key=astuple):
        if rule.preference <= sides.MAIN_PREFERENCE:
            yield f"somebody else has an {_family(rule.family)} rule of preference {rule.preference}"


def _family(family: int) -> str:
    return "IPv4" if family == socket.AF_INET else "IPv6"


def _settings(wanted: Mapping[str, str], where: str) -> list[str]:
    """Sysctls of the calling thread's namespace that are not as wanted. Those that this kernel lacks are no matter."""
    found = []
    for name, value in wanted.items():
        try:
            have = Path("/proc/sys", name).read_text().strip()
        except FileNotFoundError:
            continue
        if have != value:
            shown = name.removeprefix("net/").replace("/", ".")
            tab = "\t"
            found.append(
                f"{where}: sysctl net.{shown} is {have.replace(tab, ' ')} instead of {value.replace(tab, ' ')}"
            )
    return found
