"""Rows of packets that carry whole packets: none leaves or reaches an enrolled pod unless its kind is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.model.encapsulation import ENCAPSULATIONS
from tests.packets.world import DRAIN, FAMILIES, FORWARDED, NEXT, PLAIN, SHOT, V4, V6, Family, Row, World
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
    yield from hidden()


def hidden() -> Iterator[Row]:
    """Behind options, and in fragments."""
    options = pk.framed(ip4(V4.pod, V4.peer, pk.GRE, bytes(24), options=b"\x01" * 40))
    yield from both_ways(V4, "behind IP options", "ENCAPSULATED", SHOT, options)
    first = pk.framed(ip4(V4.pod, V4.peer, pk.ESP, bytes(24), is_more=True))
    yield from both_ways(V4, "first fragment v4", "ENCAPSULATED", SHOT, first)
    later = pk.framed(ip4(V4.pod, V4.peer, pk.ESP, bytes(24), offset_bytes=1480))
    yield from both_ways(V4, "later fragment v4", "ENCAPSULATED", SHOT, later)
    yield from both_ways(V4, "fragment v4, allowed", "OTHER_PROTOCOL", NEXT, later, World(allowed=("esp",)))
    for header in (pk.HOP_BY_HOP, pk.DEST_OPTIONS):
        behind = pk.framed(ip6(V6.pod, V6.peer, header, pk.extension(pk.AUTH, bytes(24))))
        yield from both_ways(V6, f"behind header {header}", "ENCAPSULATED", SHOT, behind)
    for offset in (0, 1480):
        fragment = pk.fragment6(pk.ESP, bytes(24), offset_bytes=offset)
        packet = pk.framed(ip6(V6.pod, V6.peer, pk.FRAGMENT, fragment))
        # In IPv6 a fragment's kind is told by itself alone: it stays closed whatever is allowed.
        allowed = World(allowed=tuple(ENCAPSULATIONS))
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
