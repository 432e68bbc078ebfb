"""Where a pod is attached, judged on plain values: one row for each refusal and each way to be accepted."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from redirect.desired import NextHop
from redirect.locate import Link, Place, View, judge
from redirect.packet_size import PacketSize, RouteSize

V4, V6 = ip_address("10.0.0.1"), ip_address("fd00::1")
POD_MAC, HOST_MAC, BRIDGE_MAC = (bytes.fromhex(f"02000000000{number}") for number in (1, 2, 3))

LO = Link(1, "lo", "", bytes(6), addresses=(ip_address("10.1.1.1"),))
ETH0 = Link(2, "eth0", "veth", POD_MAC, peer=9, peer_nsid=0, addresses=(V4, V6))
HOST = Link(9, "veth9", "veth", HOST_MAC, peer=2, peer_nsid=3)
BRIDGE = Link(4, "cni0", "bridge", BRIDGE_MAC)
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


def test_a_bridged_pod_is_answered_by_the_bridge() -> None:
    assert judge(outside(master=4)) == Place(9, "veth9", (V4, V6), POD_MAC, hops(BRIDGE_MAC), nsid=3)


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
    "ingress qdisc without tcx": (
        replace(GOOD, ingress_qdiscs=frozenset({9}), has_tcx=False),
        "`ingress` qdisc",
    ),
}


@pytest.mark.parametrize(("view", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_captured_is_refused_with_the_reason(view: View, reason: str) -> None:
    assert reason in judge(view).refusal
