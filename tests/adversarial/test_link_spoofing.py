"""A pod on a bridge that speaks for others there: captured it is not heard, and each lie is counted.

Each lie is told by a pod that is not captured first, and believed: so it is a real one. The victim is a pod of nobody.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from pyroute2 import IPRoute

from redirect.netns import entered
from tests.support import packets as pk
from tests.support.labtraffic import until
from tests.support.segment import GATEWAY, LINK, PORT, Segment, segment

pytestmark = pytest.mark.kernel

ETH_P_ALL = 3
LIAR, CONTROL, VICTIM = "p1", "p2", "p3"
ALL_NODES = bytes.fromhex("333300000001")
GATEWAYS = {version: pattern.format(GATEWAY).partition("/")[0] for version, pattern in LINK.items()}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with segment("s", tmp_path_factory.mktemp("s"), is_flat=False) as made:
        victim = made.pods[VICTIM].netns
        # So soon after the truth a lie would not be believed for another second.
        made.sysctl(victim, "net/ipv4/neigh/eth0/locktime", "0")
        made.sysctl(victim, "net/ipv6/conf/eth0/accept_ra", "1")
        made.capture(LIAR)
        yield made


def mac_of(node: Segment, pod: str) -> bytes:
    return bytes.fromhex(node.mac(node.pods[pod].netns, "eth0").replace(":", ""))


def link_local(mac: bytes) -> str:
    """RFC 4291, appendix A."""
    return str(
        ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])
    )


def addressed(frame: bytes, to: bytes, source: bytes) -> bytes:
    return to + source + frame[12:]


def told_by_arp(node: Segment, liar: str, operation: int) -> bytes:
    mac = mac_of(node, liar)
    lie = pk.arp(GATEWAYS[4], node.pods[VICTIM].addresses[4], operation=operation, mac=mac)
    return addressed(lie, mac_of(node, VICTIM), mac)


def arp_answer(node: Segment, liar: str) -> bytes:
    return told_by_arp(node, liar, 2)


def arp_question(node: Segment, liar: str) -> bytes:
    return told_by_arp(node, liar, 1)


def nd_answer(node: Segment, liar: str) -> bytes:
    pod, mac = node.pods[liar].addresses[6], mac_of(node, liar)
    lie = pk.advertisement(pod, node.pods[VICTIM].addresses[6], GATEWAYS[6], mac=mac, is_solicited=False)
    return addressed(pk.with_icmp6_checksum(lie), mac_of(node, VICTIM), mac)


def nd_question(node: Segment, liar: str) -> bytes:
    mac = mac_of(node, liar)
    lie = pk.solicitation(GATEWAYS[6], node.pods[VICTIM].addresses[6], mac=mac)
    return addressed(pk.with_icmp6_checksum(lie), mac_of(node, VICTIM), mac)


def router_advertisement(node: Segment, liar: str) -> bytes:
    mac = mac_of(node, liar)
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    return addressed(
        pk.with_icmp6_checksum(pk.ip(link_local(mac), "ff02::1", pk.ICMP6, message)), ALL_NODES, mac
    )


def frame_of_the_victim(node: Segment, liar: str) -> bytes:
    """A datagram of its own in a frame that is not: from then on the bridge sends it what is for the victim."""
    own, gateway = node.pods[liar].addresses[4], GATEWAYS[4]
    packet = pk.with_ip_checksum(pk.datagram(own, 4000, gateway, 9))
    bridge = bytes.fromhex(node.mac(node.node, "br0").replace(":", ""))
    return addressed(packet, bridge, mac_of(node, VICTIM))


def has_gateway_at(node: Segment, liar: str, version: int) -> bool:
    with entered(node.pods[VICTIM].netns), IPRoute() as ip:
        rows = {row.get("dst"): row.get("lladdr") for row in ip.get_neighbours()}
    known = rows[GATEWAYS[version]]
    assert known, rows
    return bool(known == mac_of(node, liar).hex(":"))


def has_router(node: Segment, liar: str, _: int) -> bool:
    liars = link_local(mac_of(node, liar))
    with entered(node.pods[VICTIM].netns), IPRoute() as ip:
        return liars in {row.get("gateway") for row in ip.get_routes(family=socket.AF_INET6)}


def is_sent_its_frames(node: Segment, liar: str, _: int) -> bool:
    mac = mac_of(node, VICTIM).hex(":")
    with entered(node.node), IPRoute() as ip:
        (port,) = ip.link_lookup(ifname=node.pods[liar].ifname)
        return port in {row["ifindex"] for row in ip.fdb("dump") if row.get("lladdr") == mac}


@dataclass(frozen=True, slots=True)
class Lie:
    frame: Callable[[Segment, str], bytes]
    is_believed: Callable[[Segment, str, int], bool]
    reason: str
    version: int = 0


LIES = (
    Lie(arp_answer, has_gateway_at, "ARP_SPOOFED", 4),
    Lie(arp_question, has_gateway_at, "ARP_SPOOFED", 4),
    Lie(nd_answer, has_gateway_at, "ND_SPOOFED", 6),
    Lie(nd_question, has_gateway_at, "ND_SPOOFED", 6),
    Lie(router_advertisement, has_router, "ROUTER_SPOOFED"),
    Lie(frame_of_the_victim, is_sent_its_frames, "MAC_SPOOFED"),
)


def tell_the_truth(node: Segment) -> None:
    """The victim asks for the gateway, by which the bridge learns of it too, and drops routers that it heard of."""
    with entered(node.pods[VICTIM].netns), IPRoute() as ip:
        for row in ip.get_routes(family=socket.AF_INET6):
            if (row.get("gateway") or "").startswith("fe80:"):
                ip.route(
                    "del",
                    family=socket.AF_INET6,
                    dst="default",
                    gateway=row.get("gateway"),
                    oif=row.get("oif"),
                )
        for row in ip.get_neighbours():
            ip.neigh("del", family=row["family"], dst=row.get("dst"), ifindex=row["ifindex"])
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with socket.socket(family) as sock, suppress(ConnectionRefusedError):
                sock.settimeout(10)
                sock.connect((GATEWAYS[version], PORT))


def send(node: Segment, pod: str, frame: bytes) -> None:
    with (
        entered(node.pods[pod].netns),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock,
    ):
        sock.bind(("eth0", 0))
        sock.send(frame)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.frame.__name__)
def test_what_a_captured_pod_says_for_another_is_not_heard(node: Segment, lie: Lie) -> None:
    tell_the_truth(node)
    assert not lie.is_believed(node, CONTROL, lie.version)
    send(node, CONTROL, lie.frame(node, CONTROL))
    until(lambda: lie.is_believed(node, CONTROL, lie.version), "the victim believes it")
    tell_the_truth(node)
    before = node.counted("from_pod", lie.reason)
    send(node, LIAR, lie.frame(node, LIAR))
    assert node.counted("from_pod", lie.reason) == before + 1
    assert not lie.is_believed(node, LIAR, lie.version)
    assert not lie.is_believed(node, CONTROL, lie.version)


@pytest.mark.parametrize("version", [4, 6])
def test_what_it_says_of_itself_is_heard(node: Segment, version: int) -> None:
    """It is asked for by its neighbours, and asks for them, as if it was not captured."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for path, other in ((node.pods[VICTIM].netns, LIAR), (node.pods[LIAR].netns, VICTIM)):
        with entered(path), socket.socket(family, socket.SOCK_DGRAM) as sock, IPRoute() as ip:
            address = node.pods[other].addresses[version]
            for row in ip.get_neighbours():
                ip.neigh("del", family=row["family"], dst=row.get("dst"), ifindex=row["ifindex"])
            sock.sendto(b"hello", (address, 9))
            mac = mac_of(node, other).hex(":")
            until(
                lambda ip=ip, address=address, mac=mac: (
                    (address, mac)  # type: ignore[misc]
                    in {(row.get("dst"), row.get("lladdr")) for row in ip.get_neighbours()}
                ),
                f"{address} is found",
            )
