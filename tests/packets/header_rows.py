"""Rows of from_pod about what can be read of a packet: link layer, sources, IPv4 and IPv6 headers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.packets.from_pod_rows import DRAINING, NOT_OURS, OPEN, PORT, PROBE, WEB, row
from tests.packets.world import DNS, NEXT, REDIRECT, SHOT, V4, V6, Row, Socket, World
from tests.support import packets as pk
from tests.support.packets import ACK, TCP, UDP, ip4, ip6


def rows() -> Iterator[Row]:
    yield from link_layer()
    yield from sources_of_one_family()
    yield from headers_v4()
    yield from headers_v6()


def link_layer() -> Iterator[Row]:
    arp, lldp = pk.arp(V4.pod, V4.host), pk.ether(bytes(46), pk.ETH_LLDP)
    yield row("arp", "ARP", NEXT, arp)
    yield row("arp, not enrolled", "ARP", NEXT, arp, NOT_OURS)
    yield row("unknown ethertype", "NOT_IP_DROP", SHOT, lldp)
    yield row("unknown ethertype, draining", "NOT_IP_PASS", NEXT, lldp, DRAINING)
    yield row("unknown ethertype, not enrolled", "NOT_IP_PASS", NEXT, lldp, NOT_OURS)
    tagged = pk.vlan(pk.segment(V4.pod, PORT, V4.peer, WEB))
    yield row("a second VLAN tag hides a SYN", "NOT_IP_DROP", SHOT, tagged)
    llc = pk.ether(b"\x42\x42\x03" + bytes(43), 38)
    yield row("802.3 length instead of a type", "NOT_IP_DROP", SHOT, llc)


def sources_of_one_family() -> Iterator[Row]:
    to_v4, to_v6 = pk.segment(V4.pod, PORT, V4.peer, WEB), pk.segment(V6.pod, PORT, V6.peer, WEB)
    yield row("IPv6 of a pod with IPv4 only", "SPOOFED", SHOT, to_v6, World(addr6=""))
    yield row("IPv4 of a pod with IPv6 only", "SPOOFED", SHOT, to_v4, World(addr4=""))
    yield row("IPv4 0.0.0.0 (DHCP)", "SPOOFED", SHOT, pk.datagram("0.0.0.0", 68, "255.255.255.255", 67))
    zero = pk.segment("0.0.0.0", PORT, V4.peer, WEB)
    yield row("0.0.0.0 of a pod with IPv6 only", "SPOOFED", SHOT, zero, World(addr4=""))
    mapped = pk.segment(f"::ffff:{V4.pod}", PORT, V6.peer, WEB)
    yield row("own IPv4 written as IPv6", "SPOOFED", SHOT, mapped)
    for world, which in ((OPEN, ""), (World(addr6=""), " of a pod with IPv4 only")):
        yield row(
            f"neighbour solicitation from fe80::{which}",
            "OTHER_PROTOCOL",
            NEXT,
            pk.solicitation("fe80::9", V6.host),
            world,
        )
        yield row(
            f"duplicate address detection{which}",
            "OTHER_PROTOCOL",
            NEXT,
            pk.solicitation("::", "fe80::9"),
            world,
        )
        yield row(
            f"SYN from fe80::{which}",
            "SYN_TO_PROXY",
            REDIRECT,
            pk.segment("fe80::9", PORT, "fe80::1", WEB),
            world,
        )
        yield row(
            f"SYN from ::{which}", "SYN_TO_PROXY", REDIRECT, pk.segment("::", PORT, "fe80::1", WEB), world
        )
    edge = pk.segment("febf::1", PORT, V6.peer, WEB, ACK)
    yield row("last of fe80::/10", "TO_PROXY", REDIRECT, edge)
    yield row("first after fe80::/10", "SPOOFED", SHOT, pk.segment("fec0::1", PORT, V6.peer, WEB, ACK))


def headers_v4() -> Iterator[Row]:
    syn, query = pk.tcp(PORT, WEB), pk.udp(PORT, 53)

    def sent(payload: bytes, protocol: int = TCP, **wrong: object) -> bytes:
        return pk.framed(ip4(V4.pod, V4.peer, protocol, payload, **wrong))  # type: ignore[arg-type]

    yield row("IP options", "SYN_TO_PROXY", REDIRECT, sent(syn, options=b"\x01" * 4))
    yield row("most IP options", "SYN_TO_PROXY", REDIRECT, sent(syn, options=b"\x01" * 40))
    # the ports would be read from the options: an ACK to be seen where the SYN is not
    hidden = sent(syn, options=pk.tcp(PORT, WEB, ACK), header_words=10)
    yield row("SYN behind options that look like an ACK", "SYN_TO_PROXY", REDIRECT, hidden)
    yield row("first fragment", "UNCLASSIFIABLE", SHOT, sent(syn, is_more=True))
    yield row("later fragment", "UNCLASSIFIABLE", SHOT, sent(syn, offset_bytes=1480))
    yield row(
        "fragment over the flags", "UNCLASSIFIABLE", SHOT, sent(bytes(16), offset_bytes=8, is_more=True)
    )
    yield row("fragment at the highest offset", "UNCLASSIFIABLE", SHOT, sent(syn, offset_bytes=65528))
    yield row("bad header length", "UNCLASSIFIABLE", SHOT, sent(syn, header_words=4))
    yield row("header longer than the packet", "UNCLASSIFIABLE", SHOT, sent(syn, header_words=15))
    yield row(
        "bad version",
        "UNCLASSIFIABLE",
        SHOT,
        pk.ether(ip4(V4.pod, V4.peer, TCP, syn, version=5), pk.ETH_IPV4),
    )
    yield row("cut TCP header", "UNCLASSIFIABLE", SHOT, sent(syn[:13]))
    yield row("no TCP header", "UNCLASSIFIABLE", SHOT, sent(b""))
    unreadable = sent(syn, header_words=4)
    yield row("bad header, pod with IPv6 only", "UNCLASSIFIABLE", SHOT, unreadable, World(addr4=""))
    yield row("bad header, not enrolled", "NOT_ENROLLED", NEXT, unreadable, NOT_OURS)
    yield row("fragment, not enrolled", "NOT_ENROLLED", NEXT, sent(syn, is_more=True), NOT_OURS)
    yield row("spoofed fragment", "SPOOFED", SHOT, pk.framed(ip4(V4.peer, V4.host, TCP, syn, is_more=True)))
    yield row("first fragment of UDP", "UDP_PASS", NEXT, sent(query, UDP, is_more=True))
    yield row("later fragment of UDP", "UDP_PASS", NEXT, sent(query, UDP, offset_bytes=1480))
    dialled = World(sockets=(Socket("pod", (V4.peer, PORT), (V4.pod, PROBE)),))
    error = pk.icmp_error(V4.pod, V4.peer, 3, pk.segment(V4.peer, PORT, V4.pod, PROBE, ACK))[34:]
    later = sent(error, pk.ICMP, offset_bytes=1480)
    yield row("later fragment that looks like an ICMP error", "OTHER_PROTOCOL", NEXT, later, dialled)


def headers_v6() -> Iterator[Row]:
    syn, query = pk.tcp(PORT, WEB), pk.udp(PORT, 53)

    def sent(following: int, payload: bytes, **wrong: int) -> bytes:
        return pk.framed(ip6(V6.pod, V6.peer, following, payload, **wrong))

    def options(count: int, payload: bytes, last: int = TCP) -> bytes:
        for index in range(count):
            payload = pk.extension(last if index == 0 else pk.DEST_OPTIONS, payload)
        return sent(pk.DEST_OPTIONS, payload)

    yield row("hop-by-hop", "SYN_TO_PROXY", REDIRECT, sent(pk.HOP_BY_HOP, pk.extension(TCP, syn)))
    long = sent(pk.HOP_BY_HOP, pk.extension(TCP, syn, words=3))
    yield row("long hop-by-hop", "SYN_TO_PROXY", REDIRECT, long)
    for count in (1, 4):
        yield row(f"{count} destination options", "SYN_TO_PROXY", REDIRECT, options(count, syn))
    yield row("5 destination options", "UNCLASSIFIABLE", SHOT, options(5, syn))
    yield row("4 options, then UDP", "DNS_TO_PROXY", REDIRECT, options(4, query, UDP), World(flags=DNS))
    hidden = sent(pk.DEST_OPTIONS, pk.extension(pk.ROUTING, pk.extension(TCP, syn)))
    yield row("options, then routing", "UNCLASSIFIABLE", SHOT, hidden)
    for what, header in (("routing", pk.ROUTING), ("mobility", pk.MOBILITY)):
        yield row(f"{what} header", "UNCLASSIFIABLE", SHOT, sent(header, pk.extension(TCP, syn)))
    for what, header in (
        ("first fragment", pk.fragment6(TCP, syn)),
        ("later fragment", pk.fragment6(TCP, syn, offset_bytes=1480, is_more=False)),
        ("atomic fragment", pk.fragment6(TCP, syn, is_more=False)),
        ("fragment over the flags", pk.fragment6(TCP, bytes(16), offset_bytes=8)),
        ("fragment of an options header", pk.fragment6(pk.DEST_OPTIONS, pk.extension(TCP, syn))),
        ("fragment of a fragment", pk.fragment6(pk.FRAGMENT, pk.fragment6(UDP, query))),
        ("fragment header cut", bytes([UDP, 0])),
    ):
        yield row(f"{what} v6", "UNCLASSIFIABLE", SHOT, sent(pk.FRAGMENT, header))
    for what, header in (
        ("first", pk.fragment6(UDP, query)),
        ("later", pk.fragment6(UDP, query, offset_bytes=1480, is_more=False)),
    ):
        yield row(f"{what} fragment of UDP v6", "UDP_PASS", NEXT, sent(pk.FRAGMENT, header))
    dialled = World(sockets=(Socket("pod", (V6.peer, PORT), (V6.pod, PROBE)),))
    error = pk.icmp_error(V6.pod, V6.peer, 1, pk.segment(V6.peer, PORT, V6.pod, PROBE, ACK))[54:]
    first = sent(pk.FRAGMENT, pk.fragment6(pk.ICMP6, error))
    yield row("first fragment of an ICMP error v6", "ICMP_TO_PROXY", REDIRECT, first, dialled)
    later = sent(pk.FRAGMENT, pk.fragment6(pk.ICMP6, error, offset_bytes=1480))
    yield row("later fragment that looks like an ICMP error v6", "OTHER_PROTOCOL", NEXT, later, dialled)
    yield row(
        "bad version v6",
        "UNCLASSIFIABLE",
        SHOT,
        pk.ether(ip6(V6.pod, V6.peer, TCP, syn, version=4), pk.ETH_IPV6),
    )
    yield row("cut TCP header v6", "UNCLASSIFIABLE", SHOT, sent(TCP, syn[:13]))
    yield row("cut option v6", "UNCLASSIFIABLE", SHOT, sent(pk.HOP_BY_HOP, b"\x06"))
    yield row(
        "option longer than the packet v6",
        "UNCLASSIFIABLE",
        SHOT,
        sent(pk.HOP_BY_HOP, pk.extension(TCP, b"")[:1] + b"\xff" + syn),
    )
    # a test run refuses frames that are shorter than their IP header, so that cut cannot be played
    yield row(
        "routing header, not enrolled",
        "NOT_ENROLLED",
        NEXT,
        sent(pk.ROUTING, pk.extension(TCP, syn)),
        NOT_OURS,
    )
