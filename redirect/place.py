"""Where a pod is attached to this node, and why one cannot be captured: pure judgement of what is seen of it.

Kinds of interface that packets can pass without meeting our programs are refused, never half captured; so are
pods whose packets go ways that the programs could not keep to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from redirect import packet_size
from redirect.desired import Bridge, DesiredPod, NextHop
from redirect.layout import IP, NO_MAC, TREATMENT, Flag
from redirect.netns import NamespaceId
from redirect.next_hops import NodeEnd, Way, way_of
from redirect.other_mesh import OtherMesh
from redirect.rtnetlink import LinkRow
from redirect.view import LOOPBACK, Link, View

_VETH_CNI = "Have the CNI attach it by a veth (as bridge, ptp, Calico and Flannel do)"
_INSTEAD = {"netkit": "Have the CNI attach it by a veth (Cilium: bpf.datapathMode=veth)"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod is attached: the host end of its veth. With a `refusal`, what is known besides it may be empty.

    `mac` is the pod's own; `hops` has one for each family of its addresses; `bridge` is what its host veth is a
    port of. `namespace`: the pod's; `nsid`: the number by which the node knows it, for as long as it exists.
    `owner`: a note of whoever captures it. `other_mesh`: what one left in the pod; `is_cleanable`: it is refused for
    nothing else, and that can be taken away.
    """

    ifindex: int
    ifname: str
    addresses: tuple[IP, ...]
    mac: bytes
    hops: tuple[NextHop, ...]
    refusal: str = ""
    namespace: NamespaceId | None = None
    nsid: int | None = None
    bridge: Bridge | None = None
    treatment: Flag = Flag(0)
    """Those of TREATMENT that hold for its connections."""
    owner: str = ""
    is_draining: bool = False
    """The proxy keeps the connections that it has, and gets no others but those to its tunnel port."""
    other_mesh: OtherMesh = field(default_factory=OtherMesh, compare=False)
    is_cleanable: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, pod: DesiredPod) -> Place:
        """As the kernel side has a pod."""
        return cls(
            pod.ifindex,
            pod.ifname,
            pod.addresses,
            pod.mac,
            pod.hops,
            bridge=pod.bridge,
            treatment=Flag(pod.flags) & TREATMENT,
            owner=pod.owner,
        )

    @property
    def is_dns_captured(self) -> bool:
        """Whether what it sends to port 53 goes to the proxy."""
        return Flag.DNS in self.treatment

    def is_current(self, links: Mapping[int, LinkRow]) -> bool:
        """Whether what the node has of it is still so: its name, where it leads, and the MACs that answer for the node.

        `links`: the node's, by ifindex.
        """
        host = links.get(self.ifindex)
        if host is None or (host.ifname, host.peer_nsid) != (self.ifname, self.nsid):
            return False
        if self.bridge is None:
            return not host.master and all(hop.mac == host.mac for hop in self.hops)
        bridge = links.get(host.master)
        return bridge is not None and (bridge.ifindex, bridge.mac) == (self.bridge.ifindex, self.bridge.mac)

    def desired(self) -> DesiredPod:
        """What is to be captured there."""
        return DesiredPod(
            self.ifindex,
            self.ifname,
            self.addresses,
            self.mac,
            self.hops,
            Flag.DRAIN if self.is_draining else Flag.ENROLLED | self.treatment,
            bridge=self.bridge,
            owner=self.owner,
        )


def judge(view: View) -> Place:
    """The place of a pod, or the reason why it cannot be captured."""
    place = replace(
        _judge(view),
        namespace=view.namespace,
        nsid=view.pod_nsid,
        other_mesh=view.other_mesh,
    )
    if place.refusal or not view.other_mesh.leads:
        return place
    return replace(place, refusal=view.other_mesh.why, is_cleanable=not view.other_mesh.listening)


def unanswered(view: View) -> frozenset[IP]:
    """Gateways of a pod whose MAC nobody has told it yet: to be asked for before it is judged."""
    ends = _ends(view)
    if isinstance(ends, str):
        return frozenset()
    return frozenset(way.unknown for way in _ways(*ends, view).values() if way.unknown is not None)


def refused(reason: str, addresses: tuple[IP, ...] = ()) -> Place:
    return Place(0, "", addresses, NO_MAC, (), reason)


def _judge(view: View) -> Place:
    ends = _ends(view)
    if isinstance(ends, str):
        return refused(ends, _addresses(view))
    inside, host = ends
    ways = _ways(inside, host, view)
    routes = [size for ifindex, size in view.route_sizes if ifindex == inside.ifindex]
    hops = tuple(
        NextHop(
            version,
            way.mac,
            packet_size.of_pod(inside.mtu_bytes, version, routes),
            way.gateway,
            way.prefix_bits,
        )
        for version, way in ways.items()
    )
    refusal = _obstacle(host, view) or _no_way(ways.values(), host, view)
    bridge = _bridge(host, view)
    return Place(host.ifindex, host.ifname, inside.addresses, inside.mac, hops, refusal, bridge=bridge)


def _ends(view: View) -> tuple[Link, Link] | str:
    """The two ends of the pod's veth, or why there are none that can be captured."""
    if view.is_node_namespace:
        return (
            "it is in the node's own network namespace (hostNetwork): there is nothing in between, and it counts as "
            "the node. Take hostNetwork away, or leave it out of the mesh"
        )
    used = [link for link in view.inside if link.addresses and link.ifindex != LOOPBACK]
    if not used:
        return "its namespace has no interface with an address: is the CNI done with it?"
    if len(used) > 1:
        names = ", ".join(link.ifname for link in used)
        return (
            f"it has addresses on more than one interface ({names}): traffic could pass by the other. Take the further "
            "ones away (with Multus the annotation k8s.v1.cni.cncf.io/networks), or leave it out of the mesh"
        )
    (inside,) = used
    refusal = _unfit_inside(inside)
    if refusal:
        return refusal
    host = view.node.get(inside.peer)
    if host is None or not _are_ends(inside, host, view.pod_nsid):
        return (
            f"the other end of its {inside.ifname} is not in this node's network namespace: "
            "is this the right node, or is the CNI built of nested namespaces?"
        )
    return inside, host


def _addresses(view: View) -> tuple[IP, ...]:
    """Those of a pod that cannot be captured, where it is clear which they are."""
    used = [link for link in view.inside if link.addresses and link.ifindex != LOOPBACK]
    return used[0].addresses if len(used) == 1 else ()


def _unfit_inside(link: Link) -> str:
    if link.kind != "veth":
        known = f"of kind {link.kind}" if link.kind else "a physical device or virtual function"
        return (
            f"its interface {link.ifname} is {known}, not a veth: its packets do not pass a hook of this node. "
            f"{_INSTEAD.get(link.kind, _VETH_CNI)}, or leave it out of the mesh"
        )
    return ""


def _are_ends(inside: Link, host: Link, pod_nsid: int | None) -> bool:
    """Whether two links are the ends of one veth. An ifindex alone means nothing across namespaces."""
    return host.kind == "veth" and host.peer == inside.ifindex and host.peer_nsid == pod_nsid is not None


def _obstacle(host: Link, view: View) -> str:
    """Why the host end of a veth cannot be captured."""
    if host.ifindex in view.ingress_qdiscs and not view.has_tcx:
        return (
            f"interface {host.ifname} has an `ingress` qdisc of somebody else and this kernel has no tcx "
            "(Linux 6.6): remove the qdisc, or have its owner use clsact"
        )
    if host.master and _bridge(host, view) is None:
        master = view.node.get(host.master)
        kind = master.kind if master is not None else "unknown kind"
        return (
            f"interface {host.ifname} belongs to a device of kind {kind}; only bridges are known. "
            "Have the CNI put its pods on a Linux bridge or route them, or leave the pod out of the mesh"
        )
    return ""


def _bridge(host: Link, view: View) -> Bridge | None:
    master = view.node.get(host.master)
    return Bridge(master.ifindex, master.mac) if master is not None and master.kind == "bridge" else None


def _ways(inside: Link, host: Link, view: View) -> dict[int, Way]:
    """Where each family goes: on a veth alone to the node, on a bridge wherever the pod's routes say."""
    bridge = _bridge(host, view)
    versions = sorted({ip.version for ip in inside.addresses})
    if bridge is None:
        return {version: Way(host.mac) for version in versions}
    over_link = [route for route in view.routes if route.ifindex == inside.ifindex]
    end = NodeEnd(bridge.mac, view.node_addresses)
    own = {version: [ip for ip in inside.addresses if ip.version == version] for version in versions}
    return {version: way_of(own[version], over_link, end, view.neighbours) for version in versions}


def _no_way(ways: Iterable[Way], host: Link, view: View) -> str:
    for way in ways:
        if way.refusal:
            return way.refusal
        if way.unknown is not None:
            return (
                f"its gateway {way.unknown} does not answer on {view.node[host.master].ifname}, so nobody knows where "
                "its packets are to go: is that machine up? Enrol the pod again when it is"
            )
    return ""
