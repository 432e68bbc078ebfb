"""What is seen of a pod: its own namespace, and what of the node it leads to. Values, and how they are read.

Nothing is judged here. `read` is to be called in the node's network namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from redirect import (
    features,
    neighbours,
    netlink,
    netns,
    other_mesh,
    route_sizes,
    routes,
    rt_rows,
    rtnetlink,
    tc_rows,
)
from redirect.layout import IP, NO_MAC
from redirect.netns import NamespaceId
from redirect.other_mesh import OtherMesh
from redirect.packet_size import RouteSize
from redirect.routes import Route
from redirect.rtnetlink import DEFAULT_MTU_BYTES, LinkRow

LOOPBACK = 1


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

    `routes` and `neighbours` (address -> MAC) are the pod's, `node_addresses` those of the node on the links that it
    leads to. `pod_nsid`: the number by which the node knows the pod's namespace; `ingress_qdiscs`: ifindexes with
    a qdisc of kind `ingress`, where that would be in our way; `route_sizes`: of routes inside, by the interface they
    leave by; `other_mesh`: what one left inside.
    """

    inside: tuple[Link, ...]
    node: dict[int, Link]
    pod_nsid: int | None
    routes: tuple[Route, ...] = ()
    neighbours: Mapping[IP, bytes] = field(default_factory=dict)
    node_addresses: frozenset[IP] = frozenset()
    ingress_qdiscs: frozenset[int] = frozenset()
    has_tcx: bool = True
    is_node_namespace: bool = False
    namespace: NamespaceId | None = None
    route_sizes: tuple[tuple[int, RouteSize], ...] = ()
    other_mesh: OtherMesh = field(default_factory=OtherMesh)


def read(path: Path) -> View:
    """What is seen of the pod in a namespace. Raises OSError."""
    if netns.inode(path) == netns.inode():
        return View((), {}, None, is_node_namespace=True)
    with netns.entered(path), netlink.one_socket():
        links, listed, namespace = rtnetlink.few(), routes.listed(), netns.own_id()
        inside, ways = tuple(_links(links)), routes.of(listed)
        macs, sizes = neighbours.macs(), tuple(route_sizes.of(listed, links))
        left = other_mesh.find()
    # Only what the pod leads to: a node may have hundreds of others.
    hosts = list(_some({link.peer for link in inside}))
    masters = list(_some({link.master for link in hosts}))
    node = {link.ifindex: link for link in (*hosts, *masters)}
    own = frozenset(address for link in masters for _, address in rt_rows.addresses(link.ifindex))
    nsid, has_tcx = rtnetlink.nsid(path), features.has_tcx()
    qdiscs = {} if has_tcx else tc_rows.ingress_qdiscs()
    blocked = frozenset(ifindex for ifindex, kind in qdiscs.items() if kind == "ingress")
    return View(inside, node, nsid, ways, macs, own, blocked, has_tcx, False, namespace, sizes, left)


def _some(indexes: set[int]) -> Iterator[Link]:
    """Those of the links that exist, without their addresses."""
    for index in sorted(indexes - {0}):
        row = rtnetlink.link(index)
        if row is not None:
            yield _link(row)


def _links(links: Iterable[LinkRow]) -> Iterator[Link]:
    addresses: dict[int, list[IP]] = {}
    for ifindex, address in rt_rows.addresses():
        if not address.is_link_local and not address.is_loopback:
            addresses.setdefault(ifindex, []).append(address)
    for row in links:
        yield _link(row, addresses.get(row.ifindex, ()))


def _link(row: LinkRow, addresses: Iterable[IP] = ()) -> Link:
    return Link(
        row.ifindex,
        row.ifname,
        row.kind,
        row.mac if len(row.mac) == len(NO_MAC) else NO_MAC,
        row.peer,
        row.peer_nsid,
        row.master,
        tuple(sorted(addresses, key=lambda each: (each.version, int(each)))),
        row.mtu_bytes,
    )
