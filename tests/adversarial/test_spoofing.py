"""An enrolled pod that lies about its address, or hides its TCP header, gets nowhere; each lie is counted."""

from __future__ import annotations

import socket
import struct

import pytest
from pyroute2 import IPRoute

from redirect.netns import entered
from tests.support import packets as pk
from tests.support.labmesh import PORT, World
from tests.support.labtraffic import PATIENCE_S, Sniffer, Talk, until

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


def hidden(world: World, what: str) -> tuple[bytes, str]:
    """A SYN of client-a to outsider-b that a filter may not find in its packet, and the address that it is for."""
    version = 6 if "v6" in what else 4
    own, far = (world.address(pod, version) for pod in ("client-a", "outsider-b"))
    plain = pk.with_checksum(own, far, pk.tcp(40000, PORT))
    options = plain
    for number in range(5):
        options = pk.extension(pk.TCP if number == 0 else pk.DEST_OPTIONS, options)
    packets = {
        "v4 header cut": lambda: pk.ip4(own, far, pk.TCP, plain[:12]),
        "v4 header of a wrong length": lambda: pk.ip4(own, far, pk.TCP, plain, header_words=4),
        "v6 first fragment": lambda: pk.ip6(own, far, pk.FRAGMENT, pk.fragment6(pk.TCP, plain)),
        "v6 whole in a fragment": lambda: pk.ip6(
            own, far, pk.FRAGMENT, pk.fragment6(pk.TCP, plain, is_more=False)
        ),
        "v6 behind a routing header": lambda: pk.ip6(own, far, pk.ROUTING, pk.extension(pk.TCP, plain)),
        "v6 behind many options": lambda: pk.ip6(own, far, pk.DEST_OPTIONS, options),
    }
    return packets[what](), far


ALL_FLAGS = 0x3F
SEGMENTS = {
    "a new connection": (pk.SYN, b""),
    "data of none": (pk.PSH | pk.ACK, b""),
    "an end of none": (pk.FIN | pk.ACK, b""),
    "an answer to nobody": (pk.SYN | pk.ACK, b""),
    "a reset of none": (pk.RST, b""),
    "no flag": (0, b""),
    "every flag": (ALL_FLAGS, b""),
    # RFC 791, 3.1: by way of another pod of its node, strictly and loosely; and where it went.
    "a strict source route": (pk.SYN, bytes((137, 7, 4, 10, 77, 1, 13, 0))),
    "a loose source route": (pk.SYN, bytes((131, 7, 4, 10, 77, 1, 13, 0))),
    "a recorded route": (pk.SYN, bytes((7, 7, 4, 0, 0, 0, 0, 0))),
}


def send_raw(world: World, pod: str, packet: bytes) -> None:
    """Put a packet on the pod's wire, past its own IP stack."""
    ethertype = struct.pack("!H", pk.ETH_IPV6 if packet[0] >> 4 == 6 else pk.ETH_IPV4)
    with entered(world.pod(pod).netns), IPRoute() as ip:
        (link,) = [each for each in ip.get_links() if each.get("ifname") == "eth0"]
        gateway = next(each.get("lladdr") for each in ip.get_neighbours() if each.get("lladdr"))
        frame = bytes.fromhex((gateway + link.get("address")).replace(":", "")) + ethertype + packet
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


@pytest.mark.parametrize(
    "what",
    [
        "v4 header cut",
        "v4 header of a wrong length",
        "v6 first fragment",
        "v6 whole in a fragment",
        "v6 behind a routing header",
        "v6 behind many options",
    ],
)
def test_a_tcp_header_that_hides_is_dropped_and_counted(world: World, what: str) -> None:
    world.ask("client-a", world.address("server-b"))
    packet, far = hidden(world, what)
    before = world.counters("node-a").get(("from_pod", "UNCLASSIFIABLE"), 0)
    with Sniffer(world.node("node-a").netns, far) as wire:
        send_raw(world, "client-a", packet)
        assert world.counters("node-a").get(("from_pod", "UNCLASSIFIABLE"), 0) == before + 1
    assert not wire.frames


@pytest.mark.parametrize("what", SEGMENTS)
def test_what_a_raw_socket_sends_goes_no_further_than_the_proxy(world: World, what: str) -> None:
    """Segments that the pod's own stack has no part in: there is no connection that they belong to."""
    world.ask("client-a", world.address("server-b"))
    (own, far), (flags, options) = (world.address(pod) for pod in ("client-a", "outsider-b")), SEGMENTS[what]
    packet = pk.ip4(own, far, pk.TCP, pk.with_checksum(own, far, pk.tcp(40001, PORT, flags)), options=options)
    framed = pk.with_ip_checksum(pk.ether(packet, pk.ETH_IPV4))

    def taken() -> int:
        counted = world.counters("node-a")
        return sum(counted.get(("from_pod", reason), 0) for reason in ("SYN_TO_PROXY", "TO_PROXY"))

    before = taken()
    with Sniffer(world.node("node-a").netns, far) as wire:
        send_raw(world, "client-a", framed[14:])
        until(lambda: taken() > before, "the proxy has it")
    assert not wire.frames


@pytest.mark.parametrize("mark", [0x1C6, 0xFFF, 0x80], ids=hex)
def test_a_pod_that_marks_its_packets_as_the_proxys_is_captured(world: World, mark: int) -> None:
    log, address = world.log("node-a"), world.address("outsider-b")
    with entered(world.pod("client-a").netns), socket.socket() as sock:
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.connect((address, PORT))
        with Talk(sock) as talk:
            talk.say()
            own = talk.address
    log.line('direction="outbound"', f"src.addr={own}", f"dst.addr={address}")


def test_an_unenrolled_pod_sends_the_same_packet_without_a_count(world: World) -> None:
    """The control sample: the packet itself is good enough for the wire."""
    world.ask("outsider-a", world.address("outsider-b"))
    with Sniffer(world.node("node-a").netns, world.address("outsider-b")) as wire:
        send_raw(world, "outsider-a", syn(world.address("outsider-a"), world.address("outsider-b")))
        until(lambda: wire.frames, "the packet is on the link")
