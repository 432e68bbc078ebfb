"""Packets as bytes, right or deliberately wrong, for the programs' test runs.

Written by hand from RFC 791, 8200, 9293, 768, 792 and 4443, so that every field can be made a lie. Checksums
are zero, as no program looks at them, unless `with_checksum` puts in TCP's. Addresses are text; the family of a
packet is that of its addresses.
"""

from __future__ import annotations

import ipaddress
import struct

ETH_IPV4, ETH_IPV6, ETH_ARP, ETH_VLAN, ETH_LLDP = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88CC
ICMP, TCP, UDP, GRE, ESP, ICMP6, SCTP = 1, 6, 17, 47, 50, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, DEST_OPTIONS, MOBILITY = 0, 43, 44, 51, 60, 135
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

DEST_MAC = bytes.fromhex("02aa00000001")
SOURCE_MAC = bytes.fromhex("02aa00000002")


def ether(payload: bytes, ethertype: int) -> bytes:
    return DEST_MAC + SOURCE_MAC + struct.pack("!H", ethertype) + payload


def vlan(frame: bytes, tag: int = 5) -> bytes:
    """A frame with an 802.1Q tag in its bytes."""
    return frame[:12] + struct.pack("!HH", ETH_VLAN, tag) + frame[12:]


def arp(source: str, target: str, *, operation: int = 1, mac: bytes = SOURCE_MAC) -> bytes:
    """ARP (RFC 826) from `source` and its MAC: operation 1 asks for `target`, 2 answers it."""
    ips = ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address(target).packed
    body = struct.pack("!HHBBH6s4s6s4s", 1, ETH_IPV4, 6, 4, operation, mac, ips[0], bytes(6), ips[1])
    return ether(body, ETH_ARP)


def tcp(
    sport: int,
    dport: int,
    flags: int = SYN,
    data: bytes = b"",
    *,
    options: bytes = b"",
    header_words: int | None = None,
) -> bytes:
    """A segment. `options`: whole words; `header_words`: the data offset, right unless given."""
    words = 5 + len(options) // 4 if header_words is None else header_words
    return struct.pack("!HHIIBBHHH", sport, dport, 1, 1, words << 4, flags, 65535, 0, 0) + options + data


def with_checksum(source: str, destination: str, segment: bytes) -> bytes:
    """A TCP segment between two addresses with the checksum of RFC 9293, 3.1."""
    packed = b"".join(ipaddress.ip_address(each).packed for each in (source, destination))
    whole = packed + struct.pack("!II", TCP, len(segment)) + segment + bytes(len(segment) % 2)
    return segment[:16] + checksum(whole) + segment[18:]


def with_ip_checksum(frame: bytes) -> bytes:
    """A frame of IPv4 without options, with the checksum of RFC 791, 3.1."""
    return frame[:24] + checksum(frame[14:24] + bytes(2) + frame[26:34]) + frame[26:]


def with_icmp6_checksum(frame: bytes) -> bytes:
    """A frame of ICMPv6 without extension headers, with the checksum of RFC 4443, 2.3."""
    message = frame[54:56] + bytes(2) + frame[58:]
    whole = frame[22:54] + struct.pack("!II", len(message), ICMP6) + message + bytes(len(message) % 2)
    return frame[:56] + checksum(whole) + frame[58:]


def checksum(data: bytes) -> bytes:
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", total ^ 0xFFFF)


def udp(sport: int, dport: int, data: bytes = b"ztun") -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def ip4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    offset_bytes: int = 0,
    is_more: bool = False,
    version: int = 4,
    header_words: int | None = None,
) -> bytes:
    """An IPv4 packet without link layer. `header_words`: the IHL field, right unless given."""
    words = 5 + len(options) // 4 if header_words is None else header_words
    total = 20 + len(options) + len(payload)
    fragment = (0x2000 if is_more else 0) | offset_bytes // 8
    head = struct.pack("!BBHHHBBH", version << 4 | words, 0, total, 7, fragment, 64, protocol, 0)
    ips = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    return head + ips + options + payload


def ip6(source: str, destination: str, following: int, payload: bytes, *, version: int = 6) -> bytes:
    head = struct.pack("!IHBB", version << 28, len(payload), following, 255)
    ips = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return head + ips + payload


def extension(following: int, payload: bytes, words: int = 0) -> bytes:
    """A hop-by-hop, destination-options or routing header of 8 * (words + 1) bytes, padded."""
    return bytes([following, words, 1, 4, 0, 0, 0, 0]) + bytes(8 * words) + payload


def fragment6(following: int, payload: bytes, *, offset_bytes: int = 0, is_more: bool = True) -> bytes:
    """An IPv6 fragment header (RFC 8200, 4.5)."""
    return struct.pack("!BBHI", following, 0, offset_bytes | is_more, 7) + payload


def is_v6(address: str) -> bool:
    return ":" in address


def framed(packet: bytes) -> bytes:
    """An IP packet with its link layer, by its version."""
    return ether(packet, ETH_IPV6 if packet[0] >> 4 == 6 else ETH_IPV4)


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A frame of the addresses' family."""
    make = ip6 if is_v6(source) else ip4
    return framed(make(source, destination, protocol, payload))


def segment(source: str, sport: int, destination: str, dport: int, flags: int = SYN) -> bytes:
    """A frame with a TCP segment."""
    return ip(source, destination, TCP, tcp(sport, dport, flags))


def datagram(source: str, sport: int, destination: str, dport: int) -> bytes:
    """A frame with a UDP datagram."""
    return ip(source, destination, UDP, udp(sport, dport))


def icmp(source: str, destination: str, kind: int, body: bytes = b"") -> bytes:
    """A frame with an ICMP message of the family; `body` follows the 8 bytes of its header."""
    protocol = ICMP6 if is_v6(source) else ICMP
    return ip(source, destination, protocol, struct.pack("!BBHI", kind, 0, 0, 0) + body)


def solicitation(source: str, target: str, *, mac: bytes = SOURCE_MAC, option: int = 1) -> bytes:
    """A neighbour solicitation (RFC 4861, 4.3) for `target`; its one option tells the MAC of the source."""
    group = ipaddress.IPv6Address(
        int(ipaddress.IPv6Address("ff02::1:ff00:0")) | int.from_bytes(_packed(target)[13:])
    )
    return icmp(source, str(group), 135, _packed(target) + bytes([option, 1]) + mac)


def advertisement(
    source: str, to: str, target: str, *, mac: bytes = SOURCE_MAC, option: int = 2, is_solicited: bool = True
) -> bytes:
    """A neighbour advertisement (RFC 4861, 4.4): the MAC of `target`."""
    body = struct.pack("!BBHI", 136, 0, 0, 0x60000000 if is_solicited else 0x20000000)
    return ip(source, to, ICMP6, body + _packed(target) + bytes([option, 1]) + mac)


def _packed(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


def icmp_error(source: str, destination: str, kind: int, about: bytes) -> bytes:
    """An ICMP error about a frame: it carries that frame's IP packet."""
    return icmp(source, destination, kind, about[14:])
