"""An enrolled pod that lies about its address, or hides its TCP header, gets nowhere; each lie is counted."""

from __future__ import annotations

import socket
import struct

import pytest
from pyroute2 import IPRoute

from redirect.netns import entered
from tests.support.labmesh import PORT, World
from tests.support.labtraffic import Sniffer, until

pytestmark = pytest.mark.kernel

ETH_P_ALL = 3


def syn(source: str, destination: str, *, fragment: int = 0) -> bytes:
    """An IPv4 packet with a bare SYN to port 8080. Checksums are right."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    tcp = bytearray(struct.pack("!HHIIBBHHH", 40000, PORT, 1, 0, 0x50, 0x02, 65535, 0, 0))
    tcp[16:18] = struct.pack("!H", checksum(addresses + struct.pack("!HH", 6, len(tcp)) + tcp))
    head = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 7, fragment, 64, 6, 0) + addresses)
    head[10:12] = struct.pack("!H", checksum(head))
    return bytes(head + tcp)


def checksum(data: bytes | bytearray) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def send_raw(world: World, pod: str, packet: bytes) -> None:
    """Put a packet on the pod's wire, past its own IP stack."""
    with entered(world.pod(pod).netns), IPRoute() as ip:
        (link,) = [each for each in ip.get_links() if each.get("ifname") == "eth0"]
        gateway = next(each.get("lladdr") for each in ip.get_neighbours() if each.get("lladdr"))
        frame = bytes.fromhex((gateway + link.get("address")).replace(":", "")) + b"\x08\x00" + packet
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
            sock.bind(("eth0", 0))
            sock.send(frame)


@pytest.mark.parametrize(
    ("source", "fragment", "reason"),
    [
        ("server-a", 0, "SPOOFED"),
        ("outsider-a", 0, "SPOOFED"),
        ("client-b", 0, "SPOOFED"),
        ("client-a", 0x2000, "UNCLASSIFIABLE"),
        ("client-a", 0x0001, "UNCLASSIFIABLE"),
    ],
    ids=["neighbour", "unenrolled", "other-node", "first-fragment", "later-fragment"],
)
def test_a_forged_packet_is_dropped_and_counted(
    world: World, source: str, fragment: int, reason: str
) -> None:
    world.ask("client-a", world.address("server-b"))  # the pod knows its gateway from here on
    before = world.counters("node-a").get(("from_pod", reason), 0)
    packet = syn(world.address(source), world.address("outsider-b"), fragment=fragment)
    with Sniffer(world.node("node-a").netns, world.address("outsider-b")) as wire:
        send_raw(world, "client-a", packet)
        until(
            lambda: world.counters("node-a").get(("from_pod", reason), 0) == before + 1,
            f"{reason} is counted",
        )
    assert not wire.frames


def test_an_unenrolled_pod_sends_the_same_packet_without_a_count(world: World) -> None:
    """The control sample: the packet itself is good enough for the wire."""
    world.ask("outsider-a", world.address("outsider-b"))
    with Sniffer(world.node("node-a").netns, world.address("outsider-b")) as wire:
        send_raw(world, "outsider-a", syn(world.address("outsider-a"), world.address("outsider-b")))
        until(lambda: wire.frames, "the packet is on the link")
