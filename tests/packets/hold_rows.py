"""Rows of SYNs that are held until their destination has answered, and of those that are let in again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.wire.held_syn import MARKER_MAC
from redirect.layout import Flag
from tests.packets.world import (
    DRAIN,
    FAMILIES,
    FORWARDED,
    HONEST,
    NEXT,
    PLAIN,
    REDIRECT,
    SHOT,
    V4,
    V6,
    Family,
    Row,
    Socket,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, FIN, RST, SYN, TCP, ip4, ip6

PORT, WEB, HBONE = 40001, 80, 15008
RINGED = World(flags=HONEST, has_ring=True)
LINUX = bytes.fromhex("020405b40402080a000000000000000001030307")
"""Options as Linux sends them."""


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        for program in ("from_pod", "to_pod"):
            yield from held(program, net)
            yield from let_by(program, net)
        yield from let_in("from_pod_side", (net.pod, PORT), (net.peer, WEB))
        yield from let_in("from_net_side", (net.peer, PORT), (net.pod, WEB))
    yield from headers()


def syn_of(program: str, net: Family, flags: int = SYN, options: bytes = b"", data: bytes = b"") -> bytes:
    source, destination = (net.pod, net.peer) if program == "from_pod" else (net.peer, net.pod)
    return pk.ip(source, destination, TCP, pk.tcp(PORT, WEB, flags, data, options=options))


def row(program: str, name: str, exit_name: str, packet: bytes, world: World, holds: bytes = b"") -> Row:
    verdict = SHOT if holds else REDIRECT
    head = "net side" if program == "to_pod" and not holds else ""
    made = Row(name, program, exit_name, verdict, packet, world, FORWARDED, head=head, holds=holds)
    return made if program == "to_pod" else replace(made, ingress_ifindex=0)


def held(program: str, net: Family) -> Iterator[Row]:
    named = f" {net.name}"
    bare = syn_of(program, net)
    yield row(program, "bare" + named, "SYN_HELD", bare, RINGED, bare)
    full = syn_of(program, net, options=LINUX)
    yield row(program, "with options" + named, "SYN_HELD", full, RINGED, full)
    data = syn_of(program, net, options=LINUX, data=b"hello, early")
    yield row(program, "with data (fast open)" + named, "SYN_HELD", data, RINGED, full_headers(data, 12))
    ecn = syn_of(program, net, SYN | 0x40 | 0x80)
    yield row(program, "with ECN" + named, "SYN_HELD", ecn, RINGED, ecn)
    small = RINGED.but(mss_bytes=1360)
    lowered = syn_of(program, net, options=LINUX.replace(b"\x05\xb4", b"\x05\x50"))
    made = row(
        program, "its MSS is lowered first" + named, "SYN_HELD", full, small, _without_sum(full, lowered)
    )
    yield replace(made, after=made.holds)
    waits = RINGED.but(sockets=(_socket(program, net, "time_wait"),))
    yield row(program, "the tuple is in TIME_WAIT" + named, "SYN_HELD", bare, waits, bare)
    out, back = net.both_ways(PORT if program == "from_pod" else WEB, _far(program, net))
    kept = RINGED.but(passthru=(out, back))
    ends = row(program, "ends what was kept" + named, "SYN_HELD", bare, kept, bare)
    yield replace(ends, is_end_of_kept=True)


def let_by(program: str, net: Family) -> Iterator[Row]:
    """To the listener at once, as those of pods whose connects are not honest."""
    named = f" {net.name}"
    bare = syn_of(program, net)
    yield row(
        program, "not honest, though there is a ring" + named, "SYN_TO_PROXY", bare, World(has_ring=True)
    )
    yield row(program, "no owners" + named, "SYN_TO_PROXY", bare, RINGED.but(owners=0))
    yield row(program, "no ring" + named, "SYN_RING_FULL", bare, World(flags=HONEST))
    yield row(program, "too many" + named, "SYN_UNHELD", bare, RINGED.but(budget_used=True))
    for state in ("established", "syn_recv"):
        world = RINGED.but(sockets=(_socket(program, net, state),), budget_used=True)
        yield row(program, f"of a connection, {state}{named}", "SYN_AGAIN", bare, world)
    for name, flags in (("FIN", FIN), ("RST", RST)):
        yield row(program, f"with {name}{named}", "SYN_TO_PROXY", syn_of(program, net, SYN | flags), RINGED)
    for name, flags in (("SYN+ACK", SYN | ACK), ("ACK", ACK)):
        yield row(program, f"honest, {name}{named}", "TO_PROXY", syn_of(program, net, flags), RINGED)
    slot = "outbound" if program == "from_pod" else "plaintext"
    nobody = RINGED.but(slots=RINGED.slots - {slot})
    yield replace(row(program, "nobody serves" + named, "NO_LISTENER", bare, nobody), verdict=SHOT, head="")
    if program == "from_pod":
        return
    tunnel = pk.segment(net.peer, PORT, net.pod, HBONE)
    yield row(program, "to the tunnel port" + named, "SYN_TO_PROXY", tunnel, RINGED)
    probe = Row("of the host" + named, program, "HOST_SYN", NEXT, bare, RINGED)
    yield replace(probe, notes=(net.flow(_far(program, net), (net.pod, WEB), 1),))


def headers() -> Iterator[Row]:
    """What headers are copied: up to 152 bytes."""
    for program, (v4, v6) in (
        ("from_pod", ((V4.pod, V4.peer), (V6.pod, V6.peer))),
        ("to_pod", ((V4.peer, V4.pod), (V6.peer, V6.pod))),
    ):
        long = pk.framed(ip4(*v4, TCP, pk.tcp(PORT, WEB, options=b"\x01" * 40), options=b"\x01" * 40))
        yield row(program, "all options that IPv4 and TCP can have", "SYN_HELD", long, RINGED, long)
        for words, is_held in ((0, True), (3, True), (4, False)):
            hidden = pk.extension(TCP, pk.tcp(PORT, WEB, options=b"\x01" * 40), words)
            frame = pk.framed(ip6(*v6, pk.DEST_OPTIONS, hidden))
            exit_name = "SYN_HELD" if is_held else "SYN_TO_PROXY"
            yield row(program, f"IPv6 options of {words} words", exit_name, frame, RINGED, frame * is_held)
        cut = pk.ip(*v4, TCP, pk.tcp(PORT, WEB, header_words=8))
        yield row(program, "a header that is longer than the packet", "SYN_TO_PROXY", cut, RINGED)
        short = pk.ip(*v4, TCP, pk.tcp(PORT, WEB, header_words=4))
        yield row(program, "a header that is too short", "SYN_TO_PROXY", short, RINGED)


def let_in(program: str, source: tuple[str, int], destination: tuple[str, int]) -> Iterator[Row]:
    """A held SYN goes back to where it comes from, if it is of an enrolled pod, and nothing else does."""
    syn = _marked(pk.segment(*source, *destination))
    named = f" {source[0]}"
    yield Row("let in" + named, program, "SYN_BACK", REDIRECT, syn, RINGED)
    yield Row("let in, no longer honest" + named, program, "SYN_BACK", REDIRECT, syn, World())
    for name, flags in (("draining", DRAIN), ("not enrolled", PLAIN), ("a flag alone", Flag.HONEST)):
        yield Row(f"let in, {name}{named}", program, "SYN_BACK_NOT_POD", SHOT, syn, World(flags=flags))
    yield Row("let in, no pod" + named, program, "SYN_BACK_NOT_POD", SHOT, syn, World(has_pods=False))
    turned = _marked(pk.segment(*destination, *source))
    yield Row("let in, turned round" + named, program, "SYN_BACK_NOT_POD", SHOT, turned, RINGED)
    ack = _marked(pk.segment(*source, *destination, ACK))
    yield Row("marked, but no SYN" + named, program, "NOT_POD", SHOT, ack, RINGED)
    nearly = syn[:11] + b"\x54" + syn[12:]
    yield Row("marked, but for a bit" + named, program, "NOT_POD", SHOT, nearly, RINGED)


def full_headers(frame: bytes, data_bytes: int) -> bytes:
    return frame[:-data_bytes]


def _marked(frame: bytes) -> bytes:
    return frame[:6] + MARKER_MAC + frame[12:]


def _far(program: str, net: Family) -> tuple[str, int]:
    return (net.peer, WEB) if program == "from_pod" else (net.peer, PORT)


def _socket(program: str, net: Family, state: str) -> Socket:
    """The proxy's socket of the tuple that `syn_of` has."""
    if program == "from_pod":
        return Socket("pod", (net.peer, WEB), (net.pod, PORT), state)
    return Socket("net", (net.pod, WEB), (net.peer, PORT), state)


def _without_sum(before: bytes, after: bytes) -> bytes:
    """`after` with the checksum that follows from the change: the words' difference, by RFC 1624."""
    at = len(after) - len(LINUX) - 4
    total = (~int.from_bytes(before[at : at + 2], "big") & 0xFFFF) + (~0x05B4 & 0xFFFF) + 0x0550
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return after[:at] + (~total & 0xFFFF).to_bytes(2, "big") + after[at + 2 :]
