"""What a pod is in the maps, and back: nothing is lost that an agent needs when it finds the pod there."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from redirect.desired import Bridge, DesiredPod, NextHop
from redirect.entries import captured_pod, iface_entry, pod_entry
from redirect.layout import IP, NO_MAC, Flag, mask, prefix_bits
from redirect.packet_size import PacketSize
from redirect.rtnetlink import LinkRow

V4, V6 = ip_address("10.88.0.11"), ip_address("fd88::11")
POD, BRIDGE, ROUTER = (bytes.fromhex(f"02000000000{number}") for number in (1, 2, 3))
SIZE4, SIZE6 = PacketSize(1400, 1360), PacketSize(1300, 1200)
LINK = LinkRow(7, "veth7", "veth")
ROUTED = DesiredPod(7, "veth7", (V4, V6), POD, (NextHop(4, BRIDGE, SIZE4), NextHop(6, BRIDGE, SIZE6)))
BRIDGED = replace(
    ROUTED,
    hops=(NextHop(4, BRIDGE, SIZE4, None, 24), NextHop(6, ROUTER, SIZE6, ip_address("fe80::1"), 64)),
    bridge=Bridge(4, BRIDGE),
)
PODS = {
    "routed": ROUTED,
    "on a bridge": BRIDGED,
    "one family": replace(BRIDGED, addresses=(V6,), hops=BRIDGED.hops[1:]),
    "no gateway, everything near": replace(
        BRIDGED, hops=(NextHop(4, NO_MAC, SIZE4), NextHop(6, NO_MAC, SIZE6))
    ),
    "an IPv4 route by an IPv6 gateway": replace(
        BRIDGED, hops=(NextHop(4, ROUTER, SIZE4, ip_address("fe80::1"), 32), BRIDGED.hops[1])
    ),
    "draining": replace(BRIDGED, flags=Flag.DRAIN),
    "with honest connects": replace(BRIDGED, flags=Flag.ENROLLED | Flag.HONEST),
}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS.keys())
def test_a_pod_is_found_again_as_it_was_put_in(pod: DesiredPod) -> None:
    entry = type(iface_entry(pod)).decode(iface_entry(pod).encode())
    pods = {
        ip: type(made).decode(made.encode()) for ip in pod.addresses for made in [pod_entry(pod, ip, LINK)]
    }
    assert captured_pod(pod.ifindex, pod.ifname, entry, pods) == pod


def test_a_pod_whose_capture_failed_half_way_has_no_macs_there() -> None:
    found = captured_pod(7, "veth7", iface_entry(BRIDGED), {V4: pod_entry(BRIDGED, V4, LINK)})
    bare = replace(BRIDGED.hops[1], mac=NO_MAC, size=PacketSize(1500, 1440))
    assert found == replace(BRIDGED, hops=(BRIDGED.hops[0], bare))
    nothing: dict[IP, object] = {}
    assert captured_pod(7, "veth7", iface_entry(ROUTED), nothing).mac == NO_MAC  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", [Flag.HONEST, Flag.BYPASS, Flag.DNS])
def test_how_connections_are_treated_is_the_interfaces_and_not_the_addresses(flag: Flag) -> None:
    """Where only what is captured counts, nothing else must look like it."""
    treated = replace(ROUTED, flags=Flag.ENROLLED | flag)
    assert iface_entry(treated).flags == Flag.ENROLLED | Flag.GUARDED | flag
    assert pod_entry(treated, V4, LINK) == pod_entry(ROUTED, V4, LINK)


@pytest.mark.parametrize(("version", "bits"), [(4, 0), (4, 1), (4, 24), (4, 32), (6, 0), (6, 64), (6, 128)])
def test_a_netmask_has_the_bits_of_its_prefix(version: int, bits: int) -> None:
    width = 32 if version == 4 else 128
    number = int.from_bytes(mask(bits, version), "big")
    assert number & ((1 << width) - 1) == ((1 << width) - 1) ^ ((1 << (width - bits)) - 1)
    assert number >> width == ((1 << 96) - 1 if version == 4 else 0)
    assert prefix_bits(mask(bits, version), version) == bits
