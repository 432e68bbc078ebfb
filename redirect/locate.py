"""Finds where a pod is attached to this node, and says why one cannot be captured.

A pod is found by a path to its network namespace, by a process of it, or by its interface here. `judge` is the
pure core; around it thin readers of links, addresses and namespace ids. Kinds of interface that packets can
pass without meeting our programs are refused, never half captured.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from redirect import features, netns, packet_size, route_sizes, rtnetlink, tc_rows
from redirect.desired import DesiredPod, NextHop
from redirect.errors import PodNotFound
from redirect.layout import IP, NO_MAC
from redirect.netns import NamespaceId
from redirect.packet_size import RouteSize
from redirect.rtnetlink import DEFAULT_MTU_BYTES

LOOPBACK = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod is attached: the host end of its veth. With a `refusal`, what is known besides it may be empty.

    `mac` is the pod's own; `hops` has one for each family of its addresses. `namespace`: the pod's; `nsid`: the
    number by which the node knows it, for as long as it exists.
    """

    ifindex: int
    ifname: str
    addresses: tuple[IP, ...]
    mac: bytes
    hops: tuple[NextHop, ...]
    refusal: str = ""
    namespace: NamespaceId | None = None
    nsid: int | None = None

    def desired(self) -> DesiredPod:
        """What is to be captured there."""
        return DesiredPod(self.ifindex, self.ifname, self.addresses, self.mac, self.hops)


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `peer` and `peer_nsid`: the other end of a veth; no nsid: the same namespace."""

    ifindex: int
    ifname: str
    kind: str
    mac: bytes
    peer: int = 0
    peer_nsid: int | None = None
    master: int = 0
    addresses: tuple[IP, ...] = ()
    mtu_bytes: int = DEFAULT_MTU_BYTES


@dataclass(frozen=True, slots=True)
class View:
    """What is seen of a pod: `inside` its namespace, and those of the node's links that it leads to, by ifindex.

    `pod_nsid`: the number by which the node knows the pod's namespace; `ingress_qdiscs`: ifindexes with a
    qdisc of kind `ingress`; `route_sizes`: of routes inside, by the interface they leave by.
    """

    inside: tuple[Link, ...]
    node: dict[int, Link]
    pod_nsid: int | None
    ingress_qdiscs: frozenset[int] = frozenset()
    has_tcx: bool = True
    is_node_namespace: bool = False
    namespace: NamespaceId | None = None
    route_sizes: tuple[tuple[int, RouteSize], ...] = ()


def locate(*, netns: str | Path | None = None, pid: int | None = None, ifname: str | None = None) -> Place:
    """A pod by exactly one of: path of its namespace, a process in it, its interface on this node.

    By interface the pod's namespace is looked for among /run/netns and all processes; one that is held open by
    something else is not found, and the refusal says so. Raises ValueError, PodNotFound for a path, process or
    interface that is not there or leads to no network namespace, OSError for one that cannot be read.
    """
    given = [each for each in (netns, pid, ifname) if each is not None]
    if len(given) != 1:
        raise ValueError("name the pod by exactly one of netns, pid and ifname")
    if ifname is not None:
        return _locate_interface(ifname)
    with held(Path(netns)) if netns is not None else _held_of_process(pid) as path:
        return judge(_read(path))


def judge(view: View) -> Place:
    """The place of a pod, or the reason why it cannot be captured."""
    return replace(_judge(view), namespace=view.namespace, nsid=view.pod_nsid)


def _judge(view: View) -> Place:
    if view.is_node_namespace:
        return _refused(
            "it is in the node's own network namespace (hostNetwork): there is nothing in between"
        )
    used = [link for link in view.inside if link.addresses and link.ifindex != LOOPBACK]
    if not used:
        return _refused("its namespace has no interface with an address: is the CNI done with it?")
    if len(used) > 1:
        names = ", ".join(link.ifname for link in used)
        return _refused(
            f"it has addresses on more than one interface ({names}): traffic could pass by the other"
        )
    (inside,) = used
    refusal = _unfit_inside(inside)
    if refusal:
        return _refused(refusal, addresses=inside.addresses)
    host = view.node.get(inside.peer)
    if host is None or not _are_ends(inside, host, view.pod_nsid):
        return _refused(
            f"the other end of its {inside.ifname} is not in this node's network namespace: "
            "is this the right node, or is the CNI built of nested namespaces?",
            addresses=inside.addresses,
        )
    refusal, mac = _gateway(host, view)
    routes = [size for ifindex, size in view.route_sizes if ifindex == inside.ifindex]
    hops = tuple(
        NextHop(version, mac, packet_size.of_pod(inside.mtu_bytes, version, routes))
        for version in sorted({ip.version for ip in inside.addresses})
    )
    return Place(host.ifindex, host.ifname, inside.addresses, inside.mac, hops, refusal)


def namespace_behind(ifindex: int) -> Path | None:
    """A path to the namespace of a veth's other end; None when no name and no process leads there."""
    link = rtnetlink.link(ifindex)
    if link is None or link.peer_nsid is None:
        return None
    for path in namespaces():
        try:
            if rtnetlink.nsid(path) == link.peer_nsid:
                return path
        except OSError:
            continue  # the process ended meanwhile
    return None


def _unfit_inside(link: Link) -> str:
    if link.kind != "veth":
        known = f"of kind {link.kind}" if link.kind else "a physical device or virtual function"
        return (
            f"its interface {link.ifname} is {known}, not a veth: its packets do not pass a hook of this node"
        )
    return ""


def _are_ends(inside: Link, host: Link, pod_nsid: int | None) -> bool:
    """Whether two links are the ends of one veth. An ifindex alone means nothing across namespaces."""
    return host.kind == "veth" and host.peer == inside.ifindex and host.peer_nsid == pod_nsid is not None


def _gateway(host: Link, view: View) -> tuple[str, bytes]:
    """(refusal, MAC): who answers for the gateway behind a host veth."""
    if host.ifindex in view.ingress_qdiscs and not view.has_tcx:
        return (
            f"interface {host.ifname} has an `ingress` qdisc of somebody else and this kernel has no tcx "
            "(Linux 6.6): remove the qdisc, or have its owner use clsact"
        ), host.mac
    if not host.master:
        return "", host.mac
    master = view.node.get(host.master)
    if master is None or master.kind != "bridge":
        kind = master.kind if master is not None else "unknown kind"
        return f"interface {host.ifname} belongs to a device of kind {kind}; only bridges are known", host.mac
    return "", master.mac


def _refused(reason: str, addresses: tuple[IP, ...] = ()) -> Place:
    return Place(0, "", addresses, NO_MAC, (), reason)


def _locate_interface(ifname: str) -> Place:
    link = next((link for link in rtnetlink.links().values() if link.ifname == ifname), None)
    if link is None:
        raise PodNotFound(f"this node has no interface {ifname}; `ip link` lists them")
    if link.kind != "veth":
        kind = link.kind or "physical device"
        return _refused(f"interface {ifname} is not a veth but a {kind}: name the host end of the pod's veth")
    path = namespace_behind(link.ifindex)
    if path is None:
        return _refused(
            f"the namespace behind interface {ifname} is neither under {netns.RUN_DIR} nor that of a process: "
            "name the pod by --netns or --pid"
        )
    with held(path) as same:
        place = judge(_read(same))
    if not place.refusal and place.ifindex != link.ifindex:
        return _refused(
            f"interface {ifname} is not the one that the pod behind it uses: that is {place.ifname}"
        )
    return place


def _read(path: Path) -> View:
    if netns.inode(path) == netns.inode():
        return View((), {}, None, is_node_namespace=True)
    with netns.entered(path), IPRoute() as ip:
        inside, namespace = tuple(_links(ip)), netns.own_id()
        sizes = tuple(route_sizes.read(ip))
    with IPRoute() as ip:
        # Only what the pod leads to: a node may have hundreds of others.
        hosts = list(_some(ip, {link.peer for link in inside}))
        masters = _some(ip, {link.master for link in hosts})
        node = {link.ifindex: link for link in (*hosts, *masters)}
    blocked = frozenset(ifindex for ifindex, kind in tc_rows.ingress_qdiscs().items() if kind == "ingress")
    return View(inside, node, rtnetlink.nsid(path), blocked, features.has_tcx(), False, namespace, sizes)


def _some(ip: IPRoute, indexes: Iterable[int]) -> Iterator[Link]:
    """Those of the links that exist, without their addresses."""
    for index in sorted(indexes):
        try:
            yield from (_link(link, ()) for link in (ip.get_links(index) if index else ()))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


def _links(ip: IPRoute) -> Iterator[Link]:
    addresses: dict[int, list[IP]] = {}
    for entry in ip.get_addr():
        address = ip_address(entry.get("local") or entry.get("address"))
        if not address.is_link_local and not address.is_loopback:
            addresses.setdefault(entry["index"], []).append(address)
    for link in ip.get_links():
        yield _link(link, addresses.get(link["index"], ()))


def _link(link: Any, addresses: Iterable[IP]) -> Link:
    mac = str(link.get("address") or "").replace(":", "")
    return Link(
        ifindex=int(link["index"]),
        ifname=str(link.get("ifname")),
        kind=str(link.get(("linkinfo", "kind")) or ""),
        mac=bytes.fromhex(mac) if len(mac) == 12 else bytes(6),
        peer=int(link.get("link") or 0),
        peer_nsid=link.get("link_netnsid"),
        master=int(link.get("master") or 0),
        addresses=tuple(sorted(addresses, key=lambda each: (each.version, int(each)))),
        mtu_bytes=int(link.get("mtu")),
    )


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """A path to the same namespace that nobody can mount something else on while it is read. Raises PodNotFound."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError) as error:
        raise PodNotFound(
            f"there is no namespace at {path} (no such file); `ip netns` lists those with a name"
        ) from error
    try:
        same = Path(f"/proc/self/fd/{fd}")
        try:
            rtnetlink.nsid(same)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EISDIR):
                raise
            raise PodNotFound(f"{path} is not a network namespace") from error
        yield same
    finally:
        os.close(fd)


@contextmanager
def _held_of_process(pid: int | None) -> Iterator[Path]:
    try:
        with held(Path(f"/proc/{pid}/ns/net")) as path:
            yield path
    except PodNotFound as error:
        raise PodNotFound(f"there is no process {pid} (no such process)") from error


def namespaces() -> Iterator[Path]:
    """A path to every namespace that has a name or a process, each once."""
    seen: set[int] = set()
    named = netns.RUN_DIR.iterdir() if netns.RUN_DIR.is_dir() else iter(())
    for path in (*named, *Path("/proc").glob("[0-9]*/ns/net")):
        try:
            number = netns.inode(path)
        except OSError:
            continue
        if number not in seen:
            seen.add(number)
            yield path
