"""Rows of packets that carry whole packets: none leaves or reaches an enrolled pod unless its kind is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.model.encapsulation import ENCAPSULATION_NAMES, ENCAPSULATIONS, UDP_ENCAPSULATIONS
from tests.packets.world import DNS, DRAIN, FAMILIES, FORWARDED, NEXT, PLAIN, SHOT, V4, V6, Family, Row, World
from tests.support import packets as pk
from tests.support.packets import ip4, ip6

OPEN = World()
OTHERS = {"IGMP": 2, "DCCP": 33, "RSVP": 46, "OSPF": 89, "VRRP": 112, "SCTP": pk.SCTP, "UDP-Lite": 136}
"""What has ports or routers of its own, but no TCP in it."""


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        inner = pk.segment(net.pod, 1, net.peer, 80)[14:]
        for name, number in ENCAPSULATIONS.items():
            packet = pk.ip(net.pod, net.peer, number, inner)
            others = tuple(other for other in ENCAPSULATIONS if other != name)
            yield from both_ways(net, f"{name} {net.name}", "ENCAPSULATED", SHOT, packet)
            yield from both_ways(
                net, f"{name} {net.name}, others allowed", "ENCAPSULATED", SHOT, packet, World(allowed=others)
            )
            yield from both_ways(
                net, f"{name} {net.name}, allowed", "OTHER_PROTOCOL", NEXT, packet, World(allowed=(name,))
            )
        for name, number in OTHERS.items():
            packet = pk.ip(net.pod, net.peer, number, inner)
            yield from both_ways(net, f"{name} {net.name}", "OTHER_PROTOCOL", NEXT, packet)
        gre = pk.ip(net.pod, net.peer, pk.GRE, inner)
        yield from both_ways(
            net, f"no header {net.name}", "ENCAPSULATED", SHOT, pk.ip(net.pod, net.peer, pk.GRE, b"")
        )
        yield Row(f"GRE {net.name}, not enrolled", "from_pod", "NOT_ENROLLED", NEXT, gre, World(flags=PLAIN))
        yield from to_pod(
            net, f"GRE {net.name}, not enrolled", "OTHER_PROTOCOL", NEXT, gre, World(flags=PLAIN)
        )
        yield from both_ways(
            net, f"GRE {net.name}, draining", "OTHER_PROTOCOL", NEXT, gre, World(flags=DRAIN)
        )
        for made in to_pod(net, f"GRE {net.name}, from the host", "ENCAPSULATED", SHOT, gre):
            yield replace(made, ingress_ifindex=0)
        yield from over_udp(net)
    yield from hidden()


def over_udp(net: Family) -> Iterator[Row]:
    """Told by the port that they are sent to, whoever sends them."""

    def row(name: str, exit_name: str, verdict: int, packet: bytes, world: World = OPEN) -> Row:
        return Row(f"{name} {net.name}", "from_pod", exit_name, verdict, packet, world)

    for kind, ports in UDP_ENCAPSULATIONS.items():
        others = World(allowed=tuple(name for name in ENCAPSULATION_NAMES if name != kind))
        for port in ports:
            packet = pk.datagram(net.pod, 40001, net.peer, port)
            yield row(f"{kind} {port}", "UDP_ENCAPSULATED", SHOT, packet)
            yield row(f"{kind} {port}, others allowed", "UDP_ENCAPSULATED", SHOT, packet, others)
            yield row(f"{kind} {port}, allowed", "UDP_PASS", NEXT, packet, World(allowed=(kind,)))
            turned = pk.datagram(net.pod, port, net.peer, 40001)
            yield row(f"from {kind} {port}", "UDP_PASS", NEXT, turned)
            # Answers to whom a pod has asked from that port, by chance.
            came = pk.datagram(net.peer, 53, net.pod, port)
            yield Row(
                f"to a pod's {port} {net.name}", "to_pod", "UDP_PASS", NEXT, came, ingress_ifindex=FORWARDED
            )
    vxlan = pk.datagram(net.pod, 40001, net.peer, 4789)
    yield row("vxlan with DNS captured", "UDP_ENCAPSULATED", SHOT, vxlan, World(flags=DNS))
    yield row("vxlan, not enrolled", "NOT_ENROLLED", NEXT, vxlan, World(flags=PLAIN))
    yield row("vxlan, draining", "DRAIN_PASS", NEXT, vxlan, World(flags=DRAIN))
    yield row("vxlan, proxy's own port", "UDP_PASS", NEXT, pk.datagram(net.pod, 1, net.peer, 15008))


def hidden() -> Iterator[Row]:
    """Behind options, and in fragments."""
    options = pk.framed(ip4(V4.pod, V4.peer, pk.GRE, bytes(24), options=b"\x01" * 40))
    yield from both_ways(V4, "behind IP options", "ENCAPSULATED", SHOT, options)
    first = pk.framed(ip4(V4.pod, V4.peer, pk.ESP, bytes(24), is_more=True))
    yield from both_ways(V4, "first fragment v4", "ENCAPSULATED", SHOT, first)
    later = pk.framed(ip4(V4.pod, V4.peer, pk.ESP, bytes(24), offset_bytes=1480))
    yield from both_ways(V4, "later fragment v4", "ENCAPSULATED", SHOT, later)
    yield from both_ways(V4, "fragment v4, allowed", "OTHER_PROTOCOL", NEXT, later, World(allowed=("esp",)))
    for offset, exit_name, verdict in ((0, "UDP_ENCAPSULATED", SHOT), (1480, "UDP_PASS", NEXT)):
        # The rest of it is of no use to whoever gets it.
        data = pk.udp(40001, 4789, bytes(24))
        part = pk.framed(ip4(V4.pod, V4.peer, pk.UDP, data, is_more=True, offset_bytes=offset))
        yield Row(f"vxlan, fragment at {offset} v4", "from_pod", exit_name, verdict, part)
        fragment = pk.fragment6(pk.UDP, data, offset_bytes=offset)
        part = pk.framed(ip6(V6.pod, V6.peer, pk.FRAGMENT, fragment))
        yield Row(f"vxlan, fragment at {offset} v6", "from_pod", exit_name, verdict, part)
    for header in (pk.HOP_BY_HOP, pk.DEST_OPTIONS):
        behind = pk.framed(ip6(V6.pod, V6.peer, header, pk.extension(pk.AUTH, bytes(24))))
        yield from both_ways(V6, f"behind header {header}", "ENCAPSULATED", SHOT, behind)
    for offset in (0, 1480):
        fragment = pk.fragment6(pk.ESP, bytes(24), offset_bytes=offset)
        packet = pk.framed(ip6(V6.pod, V6.peer, pk.FRAGMENT, fragment))
        # In IPv6 a fragment's kind is told by itself alone: it stays closed whatever is allowed.
        allowed = World(allowed=ENCAPSULATION_NAMES)
        yield from both_ways(V6, f"fragment at {offset} v6", "UNCLASSIFIABLE", SHOT, packet, allowed)


def both_ways(
    net: Family, name: str, exit_name: str, verdict: int, packet: bytes, world: World = OPEN
) -> Iterator[Row]:
    yield Row(name, "from_pod", exit_name, verdict, packet, world)
    yield from to_pod(net, name, exit_name, verdict, packet, world)


def to_pod(
    net: Family, name: str, exit_name: str, verdict: int, packet: bytes, world: World = OPEN
) -> Iterator[Row]:
    """The same packet, from the peer to the pod."""
    at, length = (26, 4) if net is V4 else (22, 16)
    source, destination = packet[at : at + length], packet[at + length : at + 2 * length]
    turned = packet[:at] + destination + source + packet[at + 2 * length :]
    yield Row(name, "to_pod", exit_name, verdict, turned, world, ingress_ifindex=FORWARDED)
