"""Where a pod is attached, judged on plain values: one row for each refusal and each way to be accepted."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from redirect.desired import Bridge, NextHop
from redirect.layout import IP
from redirect.nf_tables import Chain
from redirect.other_mesh import OtherMesh
from redirect.packet_size import PacketSize, RouteSize
from redirect.place import Place, judge, unanswered
from redirect.routes import Route
from redirect.rtnetlink import LinkRow
from redirect.view import Link, View

V4, V6 = ip_address("10.0.0.1"), ip_address("fd00::1")
POD_MAC, HOST_MAC, BRIDGE_MAC = (bytes.fromhex(f"02000000000{number}") for number in (1, 2, 3))

LO = Link(1, "lo", "", bytes(6), addresses=(ip_address("10.1.1.1"),))
ETH0 = Link(2, "eth0", "veth", POD_MAC, peer=9, peer_nsid=0, addresses=(V4, V6))
HOST = Link(9, "veth9", "veth", HOST_MAC, peer=2, peer_nsid=3)
BRIDGE = Link(4, "cni0", "bridge", BRIDGE_MAC)
MAC4, MAC6 = bytes.fromhex("020000000004"), bytes.fromhex("020000000006")
GATEWAYS = ip_address("10.0.0.254"), ip_address("fe80::fe")
ROUTES = (
    Route(ip_network("10.0.0.0/24"), 2),
    Route(ip_network("fd00::/64"), 2),
    Route(ip_network("fe80::/64"), 2),
    Route(ip_network("0.0.0.0/0"), 2, GATEWAYS[0]),
    Route(ip_network("::/0"), 2, GATEWAYS[1]),
)
GOOD = View((LO, ETH0), {9: HOST, 4: BRIDGE}, pod_nsid=3)


def inside(**changes: object) -> View:
    return replace(GOOD, inside=(LO, replace(ETH0, **changes)))


def outside(**changes: object) -> View:
    return replace(GOOD, node={4: BRIDGE, 9: replace(HOST, **changes)})


def hops(mac: bytes) -> tuple[NextHop, ...]:
    return sized(mac, 1500, 1500)


def sized(mac: bytes, mtu4: int, mtu6: int) -> tuple[NextHop, ...]:
    return NextHop(4, mac, PacketSize(mtu4, mtu4 - 40)), NextHop(6, mac, PacketSize(mtu6, mtu6 - 60))


def test_a_routed_pod_is_answered_by_its_veth() -> None:
    assert judge(GOOD) == Place(9, "veth9", (V4, V6), POD_MAC, hops(HOST_MAC), nsid=3)


def bridged(**changes: object) -> View:
    """On a bridge that has the gateways' addresses."""
    view = replace(outside(master=4), routes=ROUTES, node_addresses=frozenset(GATEWAYS))
    return replace(view, **changes)  # type: ignore[arg-type]


def over_bridge(
    macs: tuple[bytes, bytes], gateways: tuple[IP | None, IP | None] = (None, None)
) -> tuple[NextHop, ...]:
    bare = zip(hops(BRIDGE_MAC), macs, gateways, (24, 64), strict=True)
    return tuple(replace(hop, mac=mac, gateway=gateway, prefix_bits=bits) for hop, mac, gateway, bits in bare)


def test_a_pod_on_a_bridge_of_the_gateway_is_answered_by_the_bridge() -> None:
    expected = over_bridge((BRIDGE_MAC, BRIDGE_MAC))
    place = Place(9, "veth9", (V4, V6), POD_MAC, expected, nsid=3, bridge=Bridge(4, BRIDGE_MAC))
    assert judge(bridged()) == place
    assert unanswered(bridged()) == frozenset()


def test_a_gateway_elsewhere_is_asked_for_and_answers_by_its_own_mac() -> None:
    view = bridged(node_addresses=frozenset())
    assert unanswered(view) == frozenset(GATEWAYS)
    assert "its gateway 10.0.0.254 does not answer on cni0" in judge(view).refusal
    known = bridged(node_addresses=frozenset(), neighbours=dict(zip(GATEWAYS, (MAC4, MAC6), strict=True)))
    assert unanswered(known) == frozenset()
    assert judge(known).hops == over_bridge((MAC4, MAC6), GATEWAYS)


def test_routes_over_other_links_are_not_the_pods_way() -> None:
    view = bridged(routes=(*ROUTES, Route(ip_network("10.9.0.0/16"), 7, ip_address("10.0.0.7"))))
    assert not judge(view).refusal


def test_nobody_is_asked_for_a_pod_that_cannot_be_captured() -> None:
    view = replace(bridged(node_addresses=frozenset()), pod_nsid=None)
    assert unanswered(view) == frozenset()
    assert judge(view).addresses == (V4, V6)


ROUTED_LINKS = {9: LinkRow(9, "veth9", "veth", 2, 3, mac=HOST_MAC)}
BRIDGED_LINKS = {
    9: LinkRow(9, "veth9", "veth", 2, 3, mac=HOST_MAC, master=4),
    4: LinkRow(4, "cni0", "bridge", mac=BRIDGE_MAC),
}


@pytest.mark.parametrize(
    "change", [{"ifname": "veth8"}, {"peer_nsid": 4}, {"mac": POD_MAC}, {"master": 4}], ids=str
)
def test_a_routed_pod_is_looked_at_again_when_its_host_end_changes(change: dict[str, object]) -> None:
    place = judge(GOOD)
    assert place.is_current(ROUTED_LINKS)
    assert not place.is_current({9: replace(ROUTED_LINKS[9], **change), 4: BRIDGED_LINKS[4]})  # type: ignore[arg-type]
    assert not place.is_current({})


@pytest.mark.parametrize(
    ("which", "change"),
    [(9, {"peer_nsid": 4}), (9, {"master": 0}), (9, {"master": 5}), (4, {"mac": POD_MAC})],
    ids=str,
)
def test_a_pod_on_a_bridge_is_looked_at_again_when_the_bridge_changes(
    which: int, change: dict[str, object]
) -> None:
    place = judge(bridged())
    other = LinkRow(5, "br1", "bridge", mac=BRIDGE_MAC)
    assert place.is_current(BRIDGED_LINKS)
    assert not place.is_current({**BRIDGED_LINKS, 5: other, which: replace(BRIDGED_LINKS[which], **change)})  # type: ignore[arg-type]
    # What its host end has is nothing to those on the bridge.
    assert place.is_current({**BRIDGED_LINKS, 9: replace(BRIDGED_LINKS[9], mac=POD_MAC)})


def test_a_pods_packets_are_as_large_as_its_interface_takes() -> None:
    assert judge(inside(mtu_bytes=9000)).hops == sized(HOST_MAC, 9000, 9000)


def test_routes_by_its_interface_can_make_them_smaller() -> None:
    by_it, by_another = (2, RouteSize(4, 1400)), (3, RouteSize(4, 600))
    judged = judge(replace(GOOD, route_sizes=(by_it, by_another, (2, RouteSize(6, 1300)))))
    assert judged.hops == sized(HOST_MAC, 1400, 1300)


def test_interfaces_without_an_address_do_not_count() -> None:
    tunnel = Link(3, "tunl0", "ipip", bytes(6))
    assert not judge(replace(GOOD, inside=(LO, ETH0, tunnel))).refusal


def test_every_address_of_the_interface_is_its_pods_to_tell() -> None:
    """Which of them are the pod's is for the mesh to say."""
    place = judge(inside(addresses=(V4, ip_address("10.0.0.2"), V6)))
    assert (place.addresses, [hop.version for hop in place.hops]) == (
        (V4, ip_address("10.0.0.2"), V6),
        [4, 6],
    )


def test_an_ingress_qdisc_is_no_obstacle_where_tcx_is() -> None:
    assert not judge(replace(GOOD, ingress_qdiscs=frozenset({9}))).refusal


REFUSALS = {
    "host network": (View((), {}, None, is_node_namespace=True), "hostNetwork"),
    "no address": (inside(addresses=()), "no interface with an address"),
    "two interfaces": (
        replace(GOOD, inside=(ETH0, replace(ETH0, ifindex=3, ifname="net1"))),
        "more than one interface (eth0, net1)",
    ),
    "netkit": (inside(kind="netkit"), "of kind netkit, not a veth"),
    "ipvlan": (inside(kind="ipvlan"), "of kind ipvlan, not a veth"),
    "macvlan": (inside(kind="macvlan"), "of kind macvlan, not a veth"),
    "virtual function": (inside(kind=""), "physical device or virtual function"),
    "peer elsewhere": (replace(GOOD, node={4: BRIDGE}), "not in this node's"),
    "peer's number is another veth": (outside(peer=77), "not in this node's"),
    "peer's number leads to another pod": (outside(peer_nsid=8), "not in this node's"),
    "pod without an id here": (replace(GOOD, pod_nsid=None), "not in this node's"),
    "both ends without an id": (replace(outside(peer_nsid=None), pod_nsid=None), "not in this node's"),
    "peer's number is no veth": (outside(kind="bridge"), "not in this node's"),
    "bond": (
        replace(outside(master=5), node={5: Link(5, "bond0", "bond", HOST_MAC), 9: replace(HOST, master=5)}),
        "device of kind bond",
    ),
    "unknown master": (outside(master=6), "unknown kind"),
    "two gateways on a bridge": (
        replace(
            outside(master=4),
            routes=(*ROUTES, Route(ip_network("10.9.0.0/16"), 2, ip_address("10.0.0.7"))),
            node_addresses=frozenset(GATEWAYS),
        ),
        "more than one gateway (10.0.0.7, 10.0.0.254)",
    ),
    "ingress qdisc without tcx": (
        replace(GOOD, ingress_qdiscs=frozenset({9}), has_tcx=False),
        "`ingress` qdisc",
    ),
}


@pytest.mark.parametrize(("view", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_captured_is_refused_with_the_reason(view: View, reason: str) -> None:
    assert reason in judge(view).refusal


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("host network", "Take hostNetwork away"),
        ("two interfaces", "k8s.v1.cni.cncf.io/networks"),
        ("netkit", "Cilium: bpf.datapathMode=veth"),
        ("ipvlan", "attach it by a veth"),
        ("macvlan", "attach it by a veth"),
        ("virtual function", "attach it by a veth"),
        ("bond", "on a Linux bridge or route them"),
    ],
)
def test_what_can_be_done_about_it_is_said(kind: str, remedy: str) -> None:
    refusal = judge(REFUSALS[kind][0]).refusal
    assert remedy in refusal and "or leave" in refusal


LED = OtherMesh(chains=(Chain(2, "nat", "ISTIO_OUTPUT"),))


def test_a_pod_with_another_meshs_rules_is_refused_and_can_be_cleaned() -> None:
    place = judge(replace(GOOD, other_mesh=LED))
    assert place.refusal == LED.why and place.is_cleanable
    assert replace(place, refusal="") == judge(GOOD), "everything else is known"


def test_a_sidecar_is_not_cleaned_away_and_a_listener_alone_no_reason() -> None:
    place = judge(replace(GOOD, other_mesh=replace(LED, listening=(15006,))))
    assert "without its sidecar" in place.refusal and not place.is_cleanable
    place = judge(replace(GOOD, other_mesh=OtherMesh(listening=(15006,))))
    assert not place.refusal and place.other_mesh


def test_another_reason_comes_first_and_cleaning_would_not_help() -> None:
    place = judge(replace(outside(master=6), other_mesh=LED))
    assert "unknown kind" in place.refusal and not place.is_cleanable
