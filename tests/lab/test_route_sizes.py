"""What routes of a namespace say about sizes, as a real kernel lists them."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from redirect import netns, route_sizes
from redirect.packet_size import RouteSize
from tests.support import packets as pk

pytestmark = pytest.mark.kernel
OWN, GATEWAY, FAR = "10.1.1.1", "10.1.1.2", "10.9.9.9"


@pytest.fixture
def veth() -> Iterator[tuple[Path, int]]:
    """A namespace with both ends of a veth; `eth0`, of that ifindex, has addresses and default routes."""
    name = f"hs-{os.getpid()}"
    path = netns.ensure(name)
    try:
        with netns.entered(path), IPRoute() as ip:
            ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "peer"})
            index, peer = (ip.link_lookup(ifname=each)[0] for each in ("eth0", "peer"))
            for each in (index, peer):
                ip.link("set", index=each, state="up")
            ip.addr("add", index=index, address=OWN, prefixlen=24)
            ip.addr("add", index=index, address="fd01::1", prefixlen=64, flags=0x02)  # nodad
            (link,) = ip.get_links(peer)
            ip.neigh("add", dst=GATEWAY, lladdr=link.get("address"), ifindex=index, state=0x80)  # permanent
            ip.route("add", dst="default", gateway=GATEWAY)
        yield path, index
    finally:
        netns.remove(name)


def sizes(path: Path, index: int) -> set[RouteSize]:
    with netns.entered(path), IPRoute() as ip:
        return {size for ifindex, size in route_sizes.read(ip) if ifindex == index}


def test_routes_and_the_interface_say_what_fits(veth: tuple[Path, int]) -> None:
    path, index = veth
    assert sizes(path, index) == {RouteSize(6, 1500)}
    with netns.entered(path), IPRoute() as ip:
        # ip route add 10.2.0.0/16 via GATEWAY mtu 1400 advmss 1300
        ip.route("add", dst="10.2.0.0/16", gateway=GATEWAY, metrics={"mtu": 1400, "advmss": 1300})
        hops = [{"gateway": GATEWAY}, {"gateway": "10.1.1.3"}]
        ip.route("add", dst="10.3.0.0/16", multipath=hops, metrics={"mtu": 1200})
        ip.route("add", dst="fd02::/64", gateway="fd01::2", metrics={"mtu": 1350})
        ip.route("add", dst="10.4.0.0/16", type="unreachable", metrics={"mtu": 700})
        Path("/proc/sys/net/ipv6/conf/eth0/mtu").write_text("1333")
    assert sizes(path, index) == {
        RouteSize(4, 1400, 1300),
        RouteSize(4, 1200),
        RouteSize(6, 1350),
        RouteSize(6, 1333),
    }


def test_what_was_learnt_about_one_destination_is_no_limit_for_all(veth: tuple[Path, int]) -> None:
    path, index = veth
    with netns.entered(path), IPRoute() as ip, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((FAR, 9))
        sock.send(b"how large may it be?")
        peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with peer:
            peer.bind(("peer", 0))
            (link,) = ip.get_links(index)
            peer.send(bytes.fromhex(link.get("address").replace(":", "")) + bytes(6) + too_big(sock, 1000))
        (learnt,) = ip.route("get", dst=FAR)
        assert learnt.get("metrics").get("mtu") == 1000
    assert sizes(path, index) == {RouteSize(6, 1500)}


def too_big(sock: socket.socket, mtu_bytes: int) -> bytes:
    """A frame without its MACs: ICMP "fragmentation needed" (RFC 1191) about a datagram of this socket."""
    about = pk.ip4(OWN, FAR, pk.UDP, pk.udp(sock.getsockname()[1], 9))
    icmp = struct.pack("!BBHHH", 3, 4, 0, 0, mtu_bytes) + about[:28]
    icmp = icmp[:2] + checksum(icmp) + icmp[4:]
    packet = pk.ip4(GATEWAY, OWN, pk.ICMP, icmp)
    return struct.pack("!H", pk.ETH_IPV4) + packet[:10] + checksum(packet[:20]) + packet[12:]


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", total ^ 0xFFFF)
