"""Rows about the size of segments: the MSS in a SYN, lowered to the pod's own, and packets larger than its MTU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from redirect.layout import MARK_PROXY
from tests.packets.world import (
    DRAIN,
    FAMILIES,
    FORWARDED,
    NEXT,
    PLAIN,
    REDIRECT,
    SHOT,
    Family,
    Row,
    Socket,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, PSH, SYN

LIMIT = 1360
SMALL = World(mtu_bytes=1400, mss_bytes=LIMIT)
NOP, END = b"\x01", b"\x00"
SACK = b"\x04\x02"
TIMESTAMP = b"\x08\x0a" + bytes(8)
SCALE = b"\x03\x03\x07"
COOKIE = b"\x22\x0a" + bytes(range(8))
"""TCP Fast Open, RFC 7413"""
UNKNOWN = b"\xfd\x06\xbe\xef\x02\x04"
"""An experiment whose value looks like the beginning of an MSS"""


def mss(size: int) -> bytes:
    return b"\x02\x04" + size.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Syn:
    """Options of a SYN before and after, whole words each; `data` behind them."""

    name: str
    options: bytes
    after: bytes
    data: bytes = b""
    header_words: int | None = None


def kept(name: str, options: bytes, data: bytes = b"", header_words: int | None = None) -> Syn:
    return Syn(name, options, options, data, header_words)


LINUX = SACK + TIMESTAMP + NOP + SCALE
SYNS = (
    Syn("as Linux sends it", mss(1460) + LINUX, mss(LIMIT) + LINUX),
    Syn("the largest", mss(0xFFFF), mss(LIMIT)),
    Syn("one too many", mss(LIMIT + 1), mss(LIMIT)),
    kept("just right", mss(LIMIT) + LINUX),
    kept("smaller", mss(536) + LINUX),
    kept("zero", mss(0)),
    Syn("at an odd place", NOP + mss(1460) + SCALE, NOP + mss(LIMIT) + SCALE),
    Syn("last", LINUX + mss(1460), LINUX + mss(LIMIT)),
    Syn("two, as the last one counts", mss(500) + mss(9000), mss(500) + mss(LIMIT)),
    Syn("two, both too large", mss(9000) + NOP + mss(8000) + SCALE, mss(LIMIT) + NOP + mss(LIMIT) + SCALE),
    Syn("behind as many NOPs as there can be", NOP * 36 + mss(1460), NOP * 36 + mss(LIMIT)),
    Syn(
        "with Fast Open, its cookie and data",
        COOKIE + SACK + mss(1460),
        COOKIE + SACK + mss(LIMIT),
        b"GET /",
    ),
    Syn("behind what nobody knows", UNKNOWN + NOP * 2 + mss(1460), UNKNOWN + NOP * 2 + mss(LIMIT)),
    kept("none", LINUX + NOP * 4),
    kept("no options at all", b""),
    kept("behind the end of the list", END + NOP * 3 + mss(1460)),
    kept("behind an option without length", b"\x08\x00" + NOP * 2 + mss(1460)),
    kept("behind an option shorter than itself", b"\x08\x01" + NOP * 2 + mss(1460)),
    kept("behind an option longer than the header", b"\x08\x29" + NOP * 2 + mss(1460)),
    kept("of another length", b"\x02\x03\x23" + NOP + b"\x02\x06\x23\x28" + NOP * 4),
    kept("cut by the end of the header", NOP * 2 + b"\x02\x04", b"\xff\xff data"),
    kept("a header of less than 20 bytes", mss(1460), header_words=4),
    kept("a header longer than the packet", mss(1460), header_words=15),
)


@dataclass(frozen=True, slots=True)
class Way:
    """How a SYN or SYN-ACK goes through a program."""

    program: str
    exit: str
    flags: int
    is_from_pod: bool
    head: str
    mark_after: int = 0
    has_connection: bool = False


WAYS = (
    Way("from_pod", "SYN_TO_PROXY", SYN, True, ""),
    Way("from_pod", "TO_PROXY", SYN | ACK, True, ""),
    Way("to_pod", "SYN_TO_PROXY", SYN, False, "net side"),
    Way("to_pod", "TO_PROXY", SYN | ACK, False, "net side"),
    Way("to_pod", "HOST_TO_PROXY", SYN | ACK, False, "net side", has_connection=True),
    Way("from_pod_side", "TO_POD", SYN, False, "into"),
    Way("from_pod_side", "TO_POD", SYN | ACK, False, "into"),
    Way("from_net_side", "TO_HOST", SYN, True, "out", MARK_PROXY),
    Way("from_net_side", "TO_HOST", SYN | ACK, True, "out", MARK_PROXY),
)


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        for way in WAYS:
            yield from (syn_row(net, way, syn) for syn in SYNS)
        yield from hidden(net)
        yield from other_packets(net)
        yield from sizes(net)


def ends(net: Family, way: Way) -> tuple[str, str]:
    return (net.pod, net.peer) if way.is_from_pod else (net.peer, net.pod)


def framed(net: Family, way: Way, syn: Syn, options: bytes) -> bytes:
    addresses = ends(net, way)
    segment = pk.tcp(40009, 80, way.flags, syn.data, options=options, header_words=syn.header_words)
    return pk.ip(*addresses, pk.TCP, pk.with_checksum(*addresses, segment))


def syn_row(net: Family, way: Way, syn: Syn) -> Row:
    source, destination = ends(net, way)
    sockets = (Socket("net", (destination, 80), (source, 40009)),) if way.has_connection else ()
    return Row(
        f"MSS {syn.name} {way.flags:#x} {net.name}",
        way.program,
        way.exit,
        REDIRECT,
        framed(net, way, syn, syn.options),
        replace(SMALL, sockets=sockets),
        ingress_ifindex=0 if way.has_connection else FORWARDED,
        mark_after=way.mark_after,
        head=way.head,
        after=framed(net, way, syn, syn.after),
    )


def hidden(net: Family) -> Iterator[Row]:
    """Options of IP in front of those of TCP."""
    for way in WAYS[:3:2] + WAYS[5::2]:
        source, destination = ends(net, way)

        def packet(size: int, way: Way = way, source: str = source, destination: str = destination) -> bytes:
            segment = pk.tcp(40009, 80, way.flags, options=mss(size) + LINUX)
            segment = pk.with_checksum(source, destination, segment)
            if pk.is_v6(source):
                return pk.framed(
                    pk.ip6(source, destination, pk.DEST_OPTIONS, pk.extension(pk.TCP, segment, 1))
                )
            return pk.framed(pk.ip4(source, destination, pk.TCP, segment, options=NOP * 8))

        yield Row(
            f"MSS behind IP options {way.flags:#x} {net.name}",
            way.program,
            way.exit,
            REDIRECT,
            packet(1460),
            SMALL,
            ingress_ifindex=FORWARDED,
            mark_after=way.mark_after,
            head=way.head,
            after=packet(LIMIT),
        )


def other_packets(net: Family) -> Iterator[Row]:
    """What is no SYN, or goes to somebody else, is not touched."""
    options = mss(1460) + LINUX
    for way in WAYS[1::2]:
        if way.has_connection:
            continue
        packet = pk.ip(*ends(net, way), pk.TCP, pk.tcp(40009, 80, ACK, options=options))
        row = Row(
            f"an option like MSS without SYN {net.name}", way.program, way.exit, REDIRECT, packet, SMALL
        )
        yield replace(row, ingress_ifindex=FORWARDED, mark_after=way.mark_after, head=way.head)
    to_it, syn = WAYS[2], SYNS[0]
    before, after = framed(net, to_it, syn, syn.options), framed(net, to_it, syn, syn.after)
    # An interface that is captured, and an address that is not: as the pod comes or goes, for an instant.
    unknown = Row(
        f"MSS to nobody's address {net.name}", "to_pod", "SYN_TO_PROXY", REDIRECT, before, head="net side"
    )
    yield replace(unknown, world=replace(SMALL, has_pods=False), ingress_ifindex=FORWARDED)
    # Past the proxy, and too large for the interface all the same.
    drain = Row(f"MSS while the pod drains {net.name}", "to_pod", "DRAIN_PASS", NEXT, before, after=after)
    yield replace(drain, world=replace(SMALL, flags=DRAIN), ingress_ifindex=FORWARDED)
    plain = Row(f"MSS to a pod that is not captured {net.name}", "to_pod", "NOT_ENROLLED", NEXT, before)
    yield replace(plain, world=replace(SMALL, flags=PLAIN), ingress_ifindex=FORWARDED)


def sizes(net: Family) -> Iterator[Row]:
    """Against an MTU of 1400, in the pod's name."""
    headers = 60 if pk.is_v6(net.pod) else 40

    def row(name: str, data_bytes: int, options: bytes, gso_size_bytes: int, fits: bool) -> Row:
        segment = pk.tcp(40009, 80, ACK | PSH, bytes(data_bytes), options=options)
        return Row(
            f"{name} {net.name}",
            "from_net_side",
            "TO_HOST" if fits else "TOO_BIG",
            REDIRECT if fits else SHOT,
            pk.ip(net.pod, net.peer, pk.TCP, segment),
            SMALL,
            mark_after=MARK_PROXY if fits else 0,
            head="out" if fits else "",
            gso_size_bytes=gso_size_bytes,
        )

    most = 1400 - headers
    yield row("as large as can be", most, b"", 0, True)
    yield row("one byte more", most + 1, b"", 0, False)
    yield row("a bundle of segments that fit", 2 * most, b"", most, True)
    yield row("a bundle of larger ones", 2 * most, b"", most + 1, False)
    yield row("a bundle that fits but for its options", 2 * most, NOP * 12, most - 11, False)
    yield row("a bundle that fits with its options", 2 * most, NOP * 12, most - 12, True)
