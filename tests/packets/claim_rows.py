"""Rows of from_pod about what a pod tells its link of who is where: ARP, neighbour discovery, routers, MACs."""

from __future__ import annotations

from collections.abc import Iterator

from redirect.layout import NO_MAC
from tests.packets.from_pod_rows import row
from tests.packets.world import DRAIN, NEXT, PLAIN, SHOT, V4, V6, Bridge, Other, Row, World
from tests.support import packets as pk

KNOWN = World(mac=pk.SOURCE_MAC)
"""The frames of `packets` are from this MAC."""
ON_BRIDGE = KNOWN.but(bridge=Bridge())
CLOSED = World(addr4="", addr6="", hostips=(V4.host, V6.host))
LINK_LOCAL = "fe80::aa:ff:fe00:2"
"""Of SOURCE_MAC, 02:aa:00:00:00:02."""
ANOTHER_MAC = bytes.fromhex("02bb000000aa")
PING, ECHO = {4: 8, 6: 128}, bytes(8)


def rows() -> Iterator[Row]:
    yield from frames()
    yield from arp()
    yield from discovery()
    yield from routers()
    yield from closed_off()


def frames() -> Iterator[Row]:
    """Bridges learn from the source of a frame; on a link with the node alone it tells nobody anything."""
    foreign = ON_BRIDGE.but(mac=ANOTHER_MAC)
    for net in (V4, V6):
        syn, named = pk.segment(net.pod, 1, net.peer, 80), f" {net.name}"
        for what, packet in (
            ("SYN", syn),
            ("datagram", pk.datagram(net.pod, 1, net.peer, 7)),
            ("answer to the node", pk.segment(net.pod, 1, net.host, 80, pk.ACK)),
        ):
            yield row(f"{what} in a frame of another MAC{named}", "MAC_SPOOFED", SHOT, packet, foreign)
        alone = KNOWN.but(mac=ANOTHER_MAC)
        yield row(
            f"another MAC, alone with the node{named}",
            "UDP_PASS",
            NEXT,
            pk.datagram(net.pod, 1, net.peer, 7),
            alone,
        )
    question = pk.arp(V4.pod, V4.host)
    yield row("ARP in a frame of another MAC", "MAC_SPOOFED", SHOT, question, foreign)
    lldp = pk.ether(bytes(46), pk.ETH_LLDP)
    yield row("any frame of another MAC", "MAC_SPOOFED", SHOT, lldp, foreign)
    for what, flags in (("draining", DRAIN), ("not enrolled", PLAIN)):
        yield row(f"frame of another MAC, {what}", "ARP", NEXT, question, foreign.but(flags=flags))
    yield row("frame of a MAC that nobody knows yet", "ARP", NEXT, question, ON_BRIDGE.but(mac=NO_MAC))


def arp() -> Iterator[Row]:
    for where, world in (("", KNOWN), (" on a bridge", ON_BRIDGE)):
        for operation, what in ((1, "asks"), (2, "answers")):
            own = pk.arp(V4.pod, V4.host, operation=operation)
            yield row(f"ARP, a pod {what}{where}", "ARP", NEXT, own, world)
            for who, address in (("gateway", V4.host), ("neighbour", V4.peer), ("group", "224.0.0.1")):
                lie = pk.arp(address, V4.router, operation=operation)
                yield row(f"ARP, {what} as the {who}{where}", "ARP_SPOOFED", SHOT, lie, world)
    yield row("ARP, tells all of itself", "ARP", NEXT, pk.arp(V4.pod, V4.pod), KNOWN)
    yield row("ARP, tells all of another", "ARP_SPOOFED", SHOT, pk.arp(V4.host, V4.host), KNOWN)
    yield row("ARP, a probe", "ARP", NEXT, pk.arp("0.0.0.0", V4.peer), KNOWN)
    yield row("ARP, an answer of nobody", "ARP_SPOOFED", SHOT, pk.arp("0.0.0.0", V4.peer, operation=2), KNOWN)
    yield row("ARP of a pod with IPv6 only", "ARP_SPOOFED", SHOT, pk.arp(V4.peer, V4.host), World(addr4=""))
    for operation in (0, 3, 8):
        odd = pk.arp(V4.pod, V4.host, operation=operation)
        yield row(f"ARP, operation {operation}", "ARP_SPOOFED", SHOT, odd, KNOWN)
    whole = pk.arp(V4.pod, V4.host)
    for what, at in (("hardware", 15), ("protocol", 16), ("hardware length", 18), ("protocol length", 19)):
        odd = whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :]
        yield row(f"ARP, wrong {what}", "ARP_SPOOFED", SHOT, odd, KNOWN)
    yield row("ARP, cut", "ARP_SPOOFED", SHOT, whole[:-1], KNOWN)
    lie = pk.arp(V4.host, V4.peer, operation=2)
    yield row("ARP of another, draining", "ARP", NEXT, lie, KNOWN.but(flags=DRAIN))
    yield row("ARP of another, not enrolled", "ARP", NEXT, lie, KNOWN.but(flags=PLAIN))


def discovery() -> Iterator[Row]:
    def says(name: str, exit_name: str, packet: bytes, world: World = KNOWN) -> Row:
        return row(f"ND, {name}", exit_name, NEXT if exit_name == "OTHER_PROTOCOL" else SHOT, packet, world)

    own, near = V6.pod, "fd77::20"
    yield says("asks", "OTHER_PROTOCOL", pk.solicitation(own, near))
    yield says("asks from its link-local address", "OTHER_PROTOCOL", pk.solicitation(LINK_LOCAL, near))
    yield says("answers", "OTHER_PROTOCOL", pk.advertisement(own, near, own))
    yield says(
        "answers for its link-local address", "OTHER_PROTOCOL", pk.advertisement(own, near, LINK_LOCAL)
    )
    yield says("tells all of itself", "OTHER_PROTOCOL", pk.advertisement(own, "ff02::1", own))
    for address in (own, LINK_LOCAL):
        yield says(f"is {address} free", "OTHER_PROTOCOL", pk.solicitation("::", address))
    yield says("is there a router", "OTHER_PROTOCOL", pk.icmp(LINK_LOCAL, "ff02::2", 133))
    yield says("is there a router, asks nobody", "OTHER_PROTOCOL", pk.icmp("::", "ff02::2", 133))
    not_its = (V6.host, near, "fe80::1", "fe80::ab:ff:fe00:2", "fe80:1::aa:ff:fe00:2", "fe81::aa:ff:fe00:2")
    for address in not_its:
        yield says(f"answers for {address}", "ND_SPOOFED", pk.advertisement(own, near, address))
        yield says(f"asks as {address}", "ND_SPOOFED", pk.solicitation(address, near))
        yield says(f"asks whether {address} is free", "ND_SPOOFED", pk.solicitation("::", address))
        yield says(f"asks for routers as {address}", "ND_SPOOFED", pk.icmp(address, "ff02::2", 133))
    lie = pk.advertisement(own, near, V6.host)
    yield says("on a bridge", "ND_SPOOFED", lie, ON_BRIDGE)
    yield says("of a pod with IPv4 only", "ND_SPOOFED", lie, World(addr6="", mac=pk.SOURCE_MAC))
    options = pk.framed(pk.ip6(own, near, pk.HOP_BY_HOP, pk.extension(pk.ICMP6, lie[54:])))
    yield says("behind options", "ND_SPOOFED", options)
    first = pk.framed(pk.ip6(own, near, pk.FRAGMENT, pk.fragment6(pk.ICMP6, lie[54:])))
    yield says("in a first fragment", "ND_SPOOFED", first)
    little = pk.framed(pk.ip6(own, near, pk.FRAGMENT, pk.fragment6(pk.ICMP6, lie[54:62])))
    yield says("cut by a fragment", "ND_SPOOFED", little)
    yield says("cut", "ND_SPOOFED", pk.icmp(own, near, 136))
    yield says("bytes of another protocol", "OTHER_PROTOCOL", pk.ip(own, near, pk.SCTP, lie[54:]))
    unknown = World()
    yield says(
        "any link-local address while its MAC is not known",
        "OTHER_PROTOCOL",
        pk.icmp("fe80::9", near, 133),
        unknown,
    )
    yield says("another's address while its MAC is not known", "ND_SPOOFED", lie, unknown)
    yield row(
        "ND of another, draining",
        "OTHER_PROTOCOL",
        NEXT,
        pk.advertisement(own, near, near),
        World(flags=DRAIN),
    )
    yield row(
        "ND of another, not enrolled",
        "NOT_ENROLLED",
        NEXT,
        pk.advertisement(own, near, near),
        World(flags=PLAIN),
    )


def routers() -> Iterator[Row]:
    """A pod is none."""
    advert, redirect6 = bytes(8), pk.solicitation(V6.pod, "fd77::20")[62:]
    for source in (V6.pod, LINK_LOCAL, "fe80::1", V6.host):
        yield row(
            f"router advertisement of {source}",
            "ROUTER_SPOOFED",
            SHOT,
            pk.icmp(source, "ff02::1", 134, advert),
            KNOWN,
        )
    yield row("ICMP redirect v6", "ROUTER_SPOOFED", SHOT, pk.icmp(LINK_LOCAL, V6.peer, 137, redirect6), KNOWN)
    yield row("ICMP redirect v4", "ROUTER_SPOOFED", SHOT, pk.icmp(V4.pod, V4.peer, 5, bytes(28)), KNOWN)
    closed = CLOSED
    yield row(
        "closed, router advertisement",
        "ROUTER_SPOOFED",
        SHOT,
        pk.icmp("fe80::9", "ff02::1", 134, advert),
        closed,
    )
    later = pk.ip4(V4.pod, V4.peer, pk.ICMP, b"\5" + bytes(15), offset_bytes=1480)
    yield row("later fragment that looks like a redirect", "OTHER_PROTOCOL", NEXT, pk.framed(later), KNOWN)
    for net in (V4, V6):
        echo = pk.icmp(net.pod, net.peer, PING[4 if net is V4 else 6], ECHO)
        yield row(f"echo of a pod whose MAC is known {net.name}", "OTHER_PROTOCOL", NEXT, echo, ON_BRIDGE)
    yield row(
        "router advertisement, not enrolled",
        "NOT_ENROLLED",
        NEXT,
        pk.icmp(V6.pod, "ff02::1", 134, advert),
        World(flags=PLAIN),
    )


def closed_off() -> Iterator[Row]:
    """Its own addresses are not known: those of the node and of other captured pods are not for it."""
    others = CLOSED.but(bridge=Bridge(others=(Other(V4.peer, ANOTHER_MAC), Other("fd77::20", ANOTHER_MAC))))
    yield row("closed, ARP", "ARP", NEXT, pk.arp(V4.pod, V4.host, operation=2), others)
    yield row("closed, ARP as the node", "ARP_SPOOFED", SHOT, pk.arp(V4.host, V4.pod, operation=2), others)
    yield row("closed, ARP as another pod", "ARP_SPOOFED", SHOT, pk.arp(V4.peer, V4.host), others)
    near = "fd77::20"
    yield row("closed, ND", "CLOSED_NEIGHBOUR", NEXT, pk.advertisement(V6.pod, near, V6.pod), others)
    yield row("closed, ND as the node", "ND_SPOOFED", SHOT, pk.advertisement(V6.pod, near, V6.host), others)
    yield row("closed, ND as another pod", "ND_SPOOFED", SHOT, pk.solicitation(near, V6.host), others)
