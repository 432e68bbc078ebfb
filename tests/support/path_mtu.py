"""What a router says of a path that takes less than its link, and what a namespace has learnt from it."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

from pyroute2 import IPRoute

from redirect import netns
from tests.support import packets as pk

ETH_P_ALL = 3


def told(
    socket_netns: Path, own: str, far: str, sender: tuple[Path, str], mac: bytes, mtu_bytes: int
) -> None:
    """A socket of `own` sends to `far`, and hears "too big" from the device `sender`, which leads to `mac`."""
    family = socket.AF_INET6 if pk.is_v6(own) else socket.AF_INET
    with netns.entered(socket_netns):
        sock = socket.socket(family, socket.SOCK_DGRAM)
    with netns.entered(sender[0]):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock, wire:
        sock.bind((own, 0))
        sock.connect((far, 9))
        sock.send(b"how large may it be?")
        wire.bind((sender[1], 0))
        wire.send(mac + bytes(6) + too_big(own, far, sock.getsockname()[1], mtu_bytes))


def learnt(path: Path, far: str) -> int:
    """The path MTU to an address in bytes; 0: nothing was learnt."""
    with netns.entered(path), IPRoute() as ip:
        (route,) = ip.route("get", dst=far)
        metrics = route.get("metrics")
        return int(metrics.get("mtu") or 0) if metrics else 0


def too_big(own: str, far: str, port: int, mtu_bytes: int) -> bytes:
    """A frame without its MACs, about a datagram from `port`: RFC 792 and 1191, or RFC 4443, 3.2."""
    if pk.is_v6(own):
        about = pk.ip6(own, far, pk.UDP, pk.udp(port, 9))
        body = struct.pack("!BBHI", 2, 0, 0, mtu_bytes) + about
        ends = b"".join(ipaddress.ip_address(each).packed for each in (far, own))
        body = body[:2] + pk.checksum(ends + struct.pack("!II", len(body), pk.ICMP6) + body) + body[4:]
        return struct.pack("!H", pk.ETH_IPV6) + pk.ip6(far, own, pk.ICMP6, body)
    about = pk.ip4(own, far, pk.UDP, pk.udp(port, 9))
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu_bytes) + about[:28]
    packet = pk.ip4(far, own, pk.ICMP, body[:2] + pk.checksum(body) + body[4:])
    return struct.pack("!H", pk.ETH_IPV4) + packet[:10] + pk.checksum(packet[:20]) + packet[12:]
