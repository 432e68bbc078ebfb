"""Rows of SYNs that to_pod answers itself, and of those that it leaves to the proxy although their source is denied."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from redirect.layout import MARK_PROXY
from tests.packets.hold_rows import LINUX
from tests.packets.world import (
    BYPASS,
    FAMILIES,
    FORWARDED,
    HONEST,
    NEXT,
    REDIRECT,
    SHOT,
    Bridge,
    Denied,
    Family,
    Other,
    Row,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, FIN, RST, SYN, TCP

PORT, WEB, HBONE = 40003, 80, 15008
ALL = World(denied=(Denied(0), Denied(HBONE)))


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        yield from answered(net)
        yield from left(net)


def syn_of(
    net: Family, port: int = WEB, flags: int = SYN, options: bytes = LINUX, data: bytes = b""
) -> bytes:
    segment = pk.tcp(PORT, port, flags, data, options=options)
    return with_hops(pk.ip(net.peer, net.pod, TCP, pk.with_checksum(net.peer, net.pod, segment)), 3)


def with_hops(frame: bytes, hops: int) -> bytes:
    """With so many left, and the checksum of IPv4."""
    if frame[12:14] == b"\x86\xdd":
        return frame[:21] + bytes([hops]) + frame[22:]
    return pk.with_ip_checksum(frame[:22] + bytes([hops]) + frame[23:])


def answer_to(net: Family, port: int, flags: int, seq: int, options: bytes = LINUX) -> bytes:
    """What the pod would say, with 64 hops to go; its ports, numbers and flags are the only other difference."""
    segment = bytearray(pk.tcp(port, PORT, flags, options=options))
    struct.pack_into("!II", segment, 4, seq, 2)
    return with_hops(pk.ip(net.pod, net.peer, TCP, pk.with_checksum(net.pod, net.peer, bytes(segment))), 64)


def row(name: str, exit_name: str, verdict: int, packet: bytes, world: World, **more: object) -> Row:
    """It came in by another device. What is answered is turned round, what is steered carries the net side's MAC."""
    head = "turned" if exit_name == "DENIED" else "net side" if verdict == REDIRECT else ""
    made = Row(name, "to_pod", exit_name, verdict, packet, world, ingress_ifindex=FORWARDED, head=head)
    return replace(made, **more)  # type: ignore[arg-type]


def denied(name: str, net: Family, port: int, flags: int, world: World, options: bytes = LINUX) -> Row:
    seq = 0 if flags & RST else isn(world.choice_key, port)
    after = answer_to(net, port, flags, seq, options)
    packet = syn_of(net, port, options=options)
    return row(f"{name} {net.name}", "DENIED", REDIRECT, packet, world, after=after, mark_after=MARK_PROXY)


def isn(key: int, port: int) -> int:
    """The sequence number that the program begins with, of the client's 1 and the ports."""

    def mixed(number: int, word: int) -> int:
        number = ((number ^ word) * 0x9E3779B1) & 0xFFFFFFFF
        return number ^ (number >> 15)

    ports = int.from_bytes(struct.pack("!HH", port, PORT), "little")
    number = mixed(mixed(key, int.from_bytes((1).to_bytes(4, "big"), "little")), ports)
    return int.from_bytes(number.to_bytes(4, "little"), "big")


def answered(net: Family) -> Iterator[Row]:
    yield denied("plaintext", net, WEB, SYN | ACK, ALL)
    yield denied("plaintext with a key", net, WEB, SYN | ACK, ALL.but(choice_key=0xDEADBEEF))
    yield denied("without options", net, WEB, SYN | ACK, ALL, b"")
    yield denied("at the tunnel port", net, HBONE, RST | ACK, ALL)
    crowd = ALL.but(stranger_limit=(10**9, 4), budget_used=True)
    yield denied("too fast at the tunnel port", net, HBONE, RST | ACK, crowd)
    yield denied("a sample, but too fast", net, HBONE, RST | ACK, crowd.but(samples_used=False))
    yield denied("honest", net, WEB, RST | ACK, ALL.but(flags=HONEST, has_ring=True))
    yield denied("honest without rings", net, WEB, SYN | ACK, ALL.but(flags=HONEST, owners=0))
    yield denied("its port", net, WEB, SYN | ACK, World(denied=(Denied(WEB),)))
    yield denied(
        "its port, not others", net, WEB, SYN | ACK, World(denied=(Denied(WEB), Denied(0, is_denied=False)))
    )
    yield denied(
        "its network",
        net,
        WEB,
        SYN | ACK,
        World(denied=(Denied(0, bits=8), Denied(0, is_denied=False, bits=0))),
    )
    yield denied("by ports, from elsewhere", net, WEB, SYN | ACK, ALL.but(plaintext_by_ports=True))


def left(net: Family) -> Iterator[Row]:
    """To the proxy, or to where it would have gone without."""

    def passes(
        name: str, world: World, packet: bytes = b"", exit_name: str = "SYN_TO_PROXY", verdict: int = REDIRECT
    ) -> Row:
        return row(f"{name} {net.name}", exit_name, verdict, packet or syn_of(net), world)

    yield passes("a sample", ALL.but(samples_used=False))
    yield passes("other port", World(denied=(Denied(81),)))
    yield passes("its port allowed", World(denied=(Denied(0), Denied(WEB, is_denied=False))))
    yield passes(
        "allowed within what is denied", World(denied=(Denied(0, bits=8), Denied(0, is_denied=False)))
    )
    yield passes("tunnel port of a set without it", World(denied=(Denied(0),)), syn_of(net, HBONE))
    yield passes("port 0", ALL, syn_of(net, 0))
    yield passes("interface of another", ALL.but(is_denied_elsewhere=True))
    yield passes("data", ALL, syn_of(net, data=b"early"))
    crowd = ALL.but(stranger_limit=(10**9, 4), budget_used=True)
    early = syn_of(net, HBONE, data=b"early")
    yield passes("data at the tunnel port, too fast", crowd, early, "STRANGER_TOO_FAST", SHOT)
    yield passes("FIN", ALL, syn_of(net, flags=SYN | FIN))
    yield passes("RST", ALL, syn_of(net, flags=SYN | RST))
    yield passes("cut header", ALL, pk.ip(net.peer, net.pod, TCP, pk.tcp(PORT, WEB, header_words=6)))
    yield passes(
        "header of four words", ALL, pk.ip(net.peer, net.pod, TCP, pk.tcp(PORT, WEB, header_words=4))
    )
    yield passes("no listener", ALL.but(slots=frozenset()), exit_name="NO_LISTENER", verdict=SHOT)
    local = Bridge(others=(Other(net.peer, bytes(6)),))
    yield passes("by ports, from a pod of this node", ALL.but(bridge=local, plaintext_by_ports=True))
    answered_by = ALL.but(bridge=local, plaintext_by_ports=True)
    yield denied("tunnel of a pod of this node", net, HBONE, RST | ACK, answered_by)
    flow = net.both_ways(WEB, (net.peer, PORT))[1]
    bypass = ALL.but(flags=BYPASS)
    yield row(f"past the proxy {net.name}", "BYPASS_SYN", NEXT, syn_of(net), bypass, notes_bypassed=(flow,))
    from_host = row(f"from the host {net.name}", "HOST_SYN", NEXT, syn_of(net), ALL, notes=(flow,))
    yield replace(from_host, ingress_ifindex=0)
