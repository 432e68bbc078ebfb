"""Rows of from_pod_side and from_net_side: what the proxy sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from redirect.layout import MARK_PROXY
from tests.packets.world import (
    DRAIN,
    ENROLLED,
    FAMILIES,
    PLAIN,
    QUEUED,
    REDIRECT,
    SHOT,
    V4,
    V6,
    Family,
    Row,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, SYN, TCP, ip4, ip6

FLAGS = (("SYN", SYN), ("SYN+ACK", SYN | ACK), ("ACK", ACK))


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        yield from to_pods(net)
        yield from to_host(net)
    yield from not_ours()


def to_pods(net: Family) -> Iterator[Row]:
    def row(name: str, exit_name: str, verdict: int, packet: bytes, world: World) -> Row:
        head = "into" if verdict == REDIRECT else ""
        return Row(f"{name} {net.name}", "from_pod_side", exit_name, verdict, packet, world, head=head)

    for what, flags in FLAGS:
        packet = pk.segment(net.peer, 40003, net.pod, 80, flags)
        yield row(what, "TO_POD", REDIRECT, packet, World())
        yield row(f"{what}, draining", "TO_POD", REDIRECT, packet, World(flags=DRAIN))
        yield row(f"{what} to a pod not enrolled", "NOT_POD", SHOT, packet, World(flags=PLAIN))
        yield row(f"{what}, a queue there", "TO_QUEUE", REDIRECT, packet, World(flags=ENROLLED | QUEUED))
        yield row(
            f"{what}, a queue there, draining", "TO_QUEUE", REDIRECT, packet, World(flags=DRAIN | QUEUED)
        )
        yield row(f"{what}, a queue there, not enrolled", "NOT_POD", SHOT, packet, World(flags=QUEUED))
        yield row(f"{what} to no pod", "NOT_POD", SHOT, packet, World(has_pods=False))
    # the destination decides: never the source, and never the host or the network
    outward = pk.segment(net.pod, 40003, net.peer, 80)
    yield row("from a pod outward", "NOT_POD", SHOT, outward, World())
    yield row("DNS answer", "TO_POD", REDIRECT, pk.datagram(net.peer, 53, net.pod, 40003), World())
    yield row(
        "DNS answer, a queue there",
        "TO_QUEUE",
        REDIRECT,
        pk.datagram(net.peer, 53, net.pod, 40003),
        World(flags=ENROLLED | QUEUED),
    )
    yield row("DNS answer to no pod", "NOT_POD", SHOT, pk.datagram(net.peer, 53, net.host, 40003), World())


def to_host(net: Family) -> Iterator[Row]:
    def row(name: str, exit_name: str, verdict: int, packet: bytes, world: World, **more: object) -> Row:
        made = Row(f"{name} {net.name}", "from_net_side", exit_name, verdict, packet, world)
        if verdict == REDIRECT:
            made = replace(made, head="out", mark_after=MARK_PROXY)
        return replace(made, **more)  # type: ignore[arg-type]

    for what, flags in FLAGS:
        packet = pk.segment(net.pod, 40003, net.peer, 80, flags)
        yield row(what, "TO_HOST", REDIRECT, packet, World())
        yield row(f"{what}, draining", "TO_HOST", REDIRECT, packet, World(flags=DRAIN))
        yield row(f"{what} in the name of a pod not enrolled", "NOT_POD", SHOT, packet, World(flags=PLAIN))
        yield row(f"{what} in nobody's name", "NOT_POD", SHOT, packet, World(has_pods=False))
    yield row(
        "an old mark goes", "TO_HOST", REDIRECT, pk.segment(net.pod, 1, net.peer, 2), World(), mark=0xFFF000
    )
    inward = pk.segment(net.peer, 40003, net.pod, 80)
    yield row("to a pod", "NOT_POD", SHOT, inward, World())


def not_ours() -> Iterator[Row]:
    """The private namespaces have no business with anything but TCP and UDP that can be read."""
    for program, v4, v6 in (
        ("from_pod_side", (V4.peer, V4.pod), (V6.peer, V6.pod)),
        ("from_net_side", (V4.pod, V4.peer), (V6.pod, V6.peer)),
    ):
        fragment = ip6(*v6, pk.FRAGMENT, pk.fragment6(TCP, pk.tcp(1, 2)))
        for name, packet in (
            ("ICMP v4", pk.icmp(*v4, 3)),
            ("ICMP v6", pk.icmp(*v6, 1)),
            ("neighbour discovery", pk.icmp(*v6, 135)),
            ("fragment v4", pk.framed(ip4(*v4, TCP, pk.tcp(1, 2), is_more=True))),
            ("fragment v6", pk.framed(fragment)),
            ("GRE", pk.ip(*v4, pk.GRE, bytes(24))),
            ("ARP", pk.arp(*v4)),
            ("unknown ethertype", pk.ether(bytes(46), pk.ETH_LLDP)),
            ("cut v4", pk.framed(ip4(*v4, TCP, b""))),
        ):
            yield Row(name, program, "NOT_TCP_UDP", SHOT, packet)
