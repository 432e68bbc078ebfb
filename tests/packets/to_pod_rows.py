"""Rows of to_pod: what is sent to a pod, in the order of the checks of bpf/README.md#order-of-the-checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from redirect.host_senders import NOBODY
from redirect.layout import HOOK_TO_POD, MARK_PROXY
from tests.packets.world import (
    DNS,
    DRAIN,
    ENROLLED,
    FAMILIES,
    FORWARDED,
    LEARN,
    NET_SIDE,
    NEXT,
    PLAIN,
    POD_SIDE,
    QUEUED,
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
from tests.support.cgroups import own_group
from tests.support.packets import ACK, RST, SYN, TCP, UDP, ip4, ip6

OPEN, DRAINING, NOT_OURS = World(), World(flags=DRAIN), World(flags=PLAIN)
PORT, WEB, HBONE = 40002, 80, 15008


def row(name: str, exit_name: str, verdict: int, packet: bytes, world: World = OPEN, **more: object) -> Row:
    """By default the packet came in by another device. What is steered carries the net side's MAC."""
    made = Row(name, "to_pod", exit_name, verdict, packet, world, ingress_ifindex=FORWARDED)
    head = "net side" if verdict == REDIRECT else ""
    return replace(made, head=head, **more)  # type: ignore[arg-type]


def from_host(
    name: str, exit_name: str, verdict: int, packet: bytes, world: World = OPEN, **more: object
) -> Row:
    return row(f"{name}, from the host", exit_name, verdict, packet, world, ingress_ifindex=0, **more)


def rows() -> Iterator[Row]:
    arp, lldp = pk.arp(V4.host, V4.pod), pk.ether(bytes(46), pk.ETH_LLDP)
    yield row("arp", "NOT_IP", NEXT, arp)
    yield row("unknown ethertype", "NOT_IP", NEXT, lldp)
    yield row("arp, no conf", "NOT_IP", NEXT, arp, World(has_conf=False))
    for net in FAMILIES:
        yield from admission(net)
        yield from new_connections(net)
        yield from learnt(net)
        yield from kept(net)
        yield from host_made(net)
        yield from icmp(net)
        yield from draining(net)
        yield from delivered(net)
        yield from dns(net)
    yield from headers()
    yield from fragments_of_others()


def admission(net: Family) -> Iterator[Row]:
    syn, query = pk.segment(net.peer, PORT, net.pod, WEB), pk.datagram(net.peer, 53, net.pod, PORT)
    named = f" {net.name}"
    yield row("device of no pod" + named, "UNKNOWN_IFACE", NEXT, syn, World(has_iface=False))
    yield row("UDP" + named, "UDP_PASS", NEXT, query)
    yield row("UDP, no conf" + named, "UDP_PASS", NEXT, query, World(has_conf=False))
    yield row("no conf" + named, "NO_CONF", SHOT, syn, World(has_conf=False))
    yield row("no conf, draining" + named, "NO_CONF", SHOT, syn, DRAINING.but(has_conf=False))
    yield from_host("no conf" + named, "NO_CONF", SHOT, syn, World(has_conf=False))
    yield row("no conf, not enrolled" + named, "NO_CONF_PASS", NEXT, syn, NOT_OURS.but(has_conf=False))
    for what, flags in (("SYN", SYN), ("ACK", ACK)):
        packet = pk.segment(net.peer, PORT, net.pod, WEB, flags)
        yield row(f"{what}, not enrolled{named}", "NOT_ENROLLED", NEXT, packet, NOT_OURS)


def dns(net: Family) -> Iterator[Row]:
    """Answers of a name server: to the proxy, where it has asked in the pod's name."""
    server, pod = (net.peer, 53), (net.pod, PORT)
    answer = pk.datagram(*server, *pod)
    named = f" {net.name}"
    asked = World(flags=DNS, sockets=(Socket("net", pod, server, "datagrams"),))
    from_host = {"ingress_ifindex": 0}
    yield row("DNS answer" + named, "DNS_TO_PROXY", REDIRECT, answer, asked)
    yield row(
        "DNS answer of this host" + named,
        "DNS_TO_PROXY",
        REDIRECT,
        answer,
        asked,
        **from_host,
    )
    yield row("DNS answer to the pod" + named, "UDP_PASS", NEXT, answer, World(flags=DNS))
    not_captured = asked.but(flags=ENROLLED)
    yield row("DNS answer, not captured" + named, "UDP_PASS", NEXT, answer, not_captured)
    for what, other in (
        ("another port of the pod", pk.datagram(*server, net.pod, PORT + 1)),
        ("another server", pk.datagram(net.router, 53, *pod)),
        ("another port of the server", pk.datagram(net.peer, 54, *pod)),
        ("cut", answer[:-8]),
    ):
        yield row(f"DNS answer, {what}{named}", "UDP_PASS", NEXT, other, asked)
    on_other_side = World(flags=DNS, sockets=(Socket("pod", pod, server, "datagrams"),))
    yield row("DNS answer, wrong side" + named, "UDP_PASS", NEXT, answer, on_other_side)
    yield row("DNS answer, no conf" + named, "UDP_PASS", NEXT, answer, asked.but(has_conf=False))


def delivered(net: Family) -> Iterator[Row]:
    """What the proxy sends to the pod and comes by here for the sake of the queue: told by where it came in."""
    named = f" {net.name}"
    syn, ack = (pk.segment(net.peer, PORT, net.pod, WEB, flags) for flags in (SYN, ACK))
    queued = World(flags=ENROLLED | QUEUED)
    for name, packet in (
        ("SYN", syn),
        ("ACK", ack),
        ("DNS answer", pk.datagram(net.peer, 53, net.pod, PORT)),
    ):
        yield row(f"{name} of the proxy{named}", "FROM_PROXY", NEXT, packet, queued, ingress_ifindex=POD_SIDE)
        yield row(
            f"{name} of the proxy, draining{named}",
            "FROM_PROXY",
            NEXT,
            packet,
            World(flags=DRAIN | QUEUED),
            ingress_ifindex=POD_SIDE,
        )
    # Nothing else makes a packet look like that.
    yield row(f"SYN out of ztun-net{named}", "SYN_TO_PROXY", REDIRECT, syn, queued, ingress_ifindex=NET_SIDE)
    yield row(f"ACK of somebody else{named}", "TO_PROXY", REDIRECT, ack, queued)
    marked = {"mark": MARK_PROXY, "mark_after": MARK_PROXY}
    yield row(f"SYN with the proxy's mark{named}", "SYN_TO_PROXY", REDIRECT, syn, queued, **marked)
    yield row(
        f"ACK of this host, the device unknown{named}", "HOST_PASS", NEXT, ack, queued, ingress_ifindex=0
    )


def new_connections(net: Family) -> Iterator[Row]:
    named = f" {net.name}"
    for port, slot in ((WEB, "plaintext"), (HBONE, "hbone"), (15006, "plaintext"), (15001, "plaintext")):
        syn, ack = (pk.segment(net.peer, PORT, net.pod, port, flags) for flags in (SYN, ACK))
        only, without = World(slots=frozenset({slot})), World(slots=OPEN.slots - {slot})
        yield row(f"SYN to {port}{named}", "SYN_TO_PROXY", REDIRECT, syn, only)
        yield row(f"SYN to {port}, nobody serves{named}", "NO_LISTENER", SHOT, syn, without)
        yield row(f"ACK to {port}, nobody serves{named}", "TO_PROXY", REDIRECT, ack, without)
    used = World(stranger_limit=(1_000_000_000, 8), budget_used=True)
    stranger = pk.segment(net.peer, PORT, net.pod, HBONE)
    yield row("of a stranger who opens too many" + named, "STRANGER_TOO_FAST", SHOT, stranger, used)
    yield row(
        "of a stranger, no limit" + named,
        "SYN_TO_PROXY",
        REDIRECT,
        stranger,
        used.but(stranger_limit=(0, 8)),
    )
    ack = pk.segment(net.peer, PORT, net.pod, HBONE, ACK)
    yield row("of a stranger, no SYN" + named, "TO_PROXY", REDIRECT, ack, used)
    plain = pk.segment(net.peer, PORT, net.pod, WEB)
    yield row("of a stranger, in plaintext" + named, "SYN_TO_PROXY", REDIRECT, plain, used)
    for what, flags in (("SYN+ACK", SYN | ACK), ("ACK", ACK), ("RST", RST), ("no flag", 0)):
        packet = pk.segment(net.peer, PORT, net.pod, WEB, flags)
        yield row(what + named, "TO_PROXY", REDIRECT, packet)
    # whom the address belongs to is the host's routing; a mark of the host is none of ours
    marked = pk.segment(net.peer, PORT, net.pod, WEB)
    yield row("marked by the host" + named, "SYN_TO_PROXY", REDIRECT, marked, mark=0x1C6, mark_after=0x1C6)


def learnt(net: Family) -> Iterator[Row]:
    """As in the other direction; what the host itself opens is noted as ever."""
    peer, world, named = (net.peer, PORT), World(flags=LEARN, addr4="", addr6=""), f" {net.name}"
    syn, ack = (pk.segment(*peer, net.pod, WEB, flags) for flags in (SYN, ACK))
    yield row("learnt, SYN" + named, "LEARNING", NEXT, syn, world, begins=net.both_ways(WEB, peer))
    yield row("learnt, ACK" + named, "LEARNING", NEXT, ack, world)
    over = world.but(learnt_until_s=1)
    yield row("learnt, over" + named, "SYN_TO_PROXY", REDIRECT, syn, over)
    yield row("learnt, over, nobody serves" + named, "NO_LISTENER", SHOT, syn, over.but(slots=frozenset()))
    yield row("learnt, over, ACK" + named, "TO_PROXY", REDIRECT, ack, over)
    probe, asked = (
        pk.segment(net.host, PORT, net.pod, WEB),
        net.flow((net.host, PORT), (net.pod, WEB), HOOK_TO_POD),
    )
    yield from_host("learnt" + named, "HOST_SYN", NEXT, probe, world, notes=(asked,))


def kept(net: Family) -> Iterator[Row]:
    peer = (net.peer, PORT)
    out, back = net.both_ways(WEB, peer)
    both = World(passthru=(out, back))
    syn, ack, syn_ack = (pk.segment(*peer, net.pod, WEB, flags) for flags in (SYN, ACK, SYN | ACK))
    named = f" {net.name}"
    yield row("kept" + named, "GRANDFATHERED", NEXT, ack, both)
    yield row("kept, SYN+ACK" + named, "GRANDFATHERED", NEXT, syn_ack, both)
    yield row("kept for a time" + named, "GRANDFATHERED", NEXT, ack, both.but(kept_until_ns=1 << 62))
    yield row("kept, its time is over" + named, "TO_PROXY", REDIRECT, ack, both.but(kept_until_ns=1))
    yield row("only the other direction is kept" + named, "TO_PROXY", REDIRECT, ack, World(passthru=(out,)))
    for which, entries in (("both", (out, back)), ("this direction", (back,)), ("the other", (out,))):
        world = World(passthru=entries)
        yield row(f"SYN ends kept, {which}{named}", "SYN_TO_PROXY", REDIRECT, syn, world, is_end_of_kept=True)
    nobody = both.but(slots=frozenset())
    yield row("SYN ends kept, nobody serves" + named, "NO_LISTENER", SHOT, syn, nobody, is_end_of_kept=True)


def host_made(net: Family) -> Iterator[Row]:
    host, pod = (net.host, PORT), (net.pod, WEB)
    syn, ack, syn_ack = (pk.segment(*host, *pod, flags) for flags in (SYN, ACK, SYN | ACK))
    noted = (net.flow(host, pod, HOOK_TO_POD),)
    named = f" {net.name}"
    yield from_host("SYN" + named, "HOST_SYN", NEXT, syn, notes=noted)
    yield from_host("SYN, not enrolled" + named, "HOST_SYN", NEXT, syn, NOT_OURS, notes=noted)
    yield from_host("SYN, draining" + named, "HOST_SYN", NEXT, syn, DRAINING, notes=noted)
    yield from_host("SYN again" + named, "HOST_SYN", NEXT, syn, World(hostflows=noted))
    yield from_host("ACK" + named, "HOST_PASS", NEXT, ack)
    yield from_host("SYN+ACK" + named, "HOST_PASS", NEXT, syn_ack)
    yield from_host("ACK, not enrolled" + named, "HOST_PASS", NEXT, ack, NOT_OURS)
    to_hbone = pk.segment(*host, net.pod, HBONE)
    hbone = (net.flow(host, (net.pod, HBONE), HOOK_TO_POD),)
    yield from_host("SYN to 15008" + named, "HOST_SYN", NEXT, to_hbone, notes=hbone)
    # whose connections pass: those of one control group, or nobody's
    ours = World(host_cgroup=own_group())
    yield from_host("SYN of the group that passes" + named, "HOST_SYN", NEXT, syn, ours, notes=noted)
    for who, group in (("nobody passes", NOBODY), ("another group passes", own_group() + 1)):
        captured = World(host_cgroup=group)
        taken = partial(from_host, world=captured)
        reached = {"exit_name": "HOST_SYN_TO_PROXY", "verdict": REDIRECT}
        yield taken(f"SYN, {who}{named}", packet=syn, **reached)
        yield taken(f"SYN to 15008, {who}{named}", packet=to_hbone, **reached)
        yield taken(f"ACK, {who}{named}", "HOST_PASS", NEXT, ack)
        unserved = captured.but(slots=frozenset())
        yield from_host(f"SYN, {who}, nobody serves{named}", "NO_LISTENER", SHOT, syn, unserved)
        for what, flags in (("not enrolled", PLAIN), ("draining", DRAIN)):
            other = captured.but(flags=flags)
            yield from_host(f"SYN, {who}, {what}{named}", "HOST_SYN", NEXT, syn, other, notes=noted)
    # a service of the host answers a dial that the proxy made in the pod's name
    for index, state in enumerate(("established", "syn_recv", "time_wait")):
        port = PORT + 10 + index  # of its own: TIME_WAIT stays
        dial = World(sockets=(Socket("net", (net.pod, port), host, state),))
        packet = pk.segment(*host, net.pod, port, ACK)
        yield from_host(f"proxy's is {state}{named}", "HOST_TO_PROXY", REDIRECT, packet, dial)
    dial = World(flags=DRAIN, sockets=(Socket("net", pod, host),))
    yield from_host("proxy's, draining" + named, "HOST_TO_PROXY", REDIRECT, syn_ack, dial)
    other_side = World(sockets=(Socket("pod", pod, host),))
    yield from_host("a socket of the other side" + named, "HOST_PASS", NEXT, ack, other_side)


def icmp(net: Family) -> Iterator[Row]:
    """Errors about dials in the pod's name: `about` was sent by the pod's address."""
    pod, far = (net.pod, PORT), (net.peer, WEB)
    about = pk.segment(*pod, *far, ACK)
    dial = World(sockets=(Socket("net", pod, far),))
    named = f" {net.name}"
    errors = (3, 11, 12) if net is V4 else (1, 2, 3, 4)
    for kind in errors:
        error = pk.icmp_error(net.router, net.pod, kind, about)
        yield row(f"error {kind}{named}", "ICMP_TO_PROXY", REDIRECT, error, dial)
        yield from_host(f"error {kind}{named}", "ICMP_TO_PROXY", REDIRECT, error, dial)
        yield row(f"error {kind}, draining{named}", "ICMP_TO_PROXY", REDIRECT, error, dial.but(flags=DRAIN))
        yield row(f"error {kind}, no socket{named}", "OTHER_PROTOCOL", NEXT, error)
    kind = errors[0]
    error = pk.icmp_error(net.router, net.pod, kind, about)
    wrong = World(sockets=(Socket("pod", pod, far),))
    yield row("error, socket of the other side" + named, "OTHER_PROTOCOL", NEXT, error, wrong)
    other = (net.router, PORT)
    foreign = pk.icmp_error(net.router, net.pod, kind, pk.segment(*other, *far, ACK))
    neighbour = World(sockets=(Socket("net", other, far),))
    yield row("error about another's connection" + named, "OTHER_PROTOCOL", NEXT, foreign, neighbour)
    redirect, echo = (5, 8) if net is V4 else (137, 128)
    packet = pk.icmp(net.host, net.pod, redirect, about[14:])
    yield row("redirect" + named, "ICMP_REDIRECT", SHOT, packet)
    yield from_host("redirect" + named, "ICMP_REDIRECT", SHOT, packet, dial)
    for world, what in ((NOT_OURS, "not enrolled"), (DRAINING, "draining")):
        yield row(f"redirect, {what}{named}", "OTHER_PROTOCOL", NEXT, packet, world)
    yield row("echo" + named, "OTHER_PROTOCOL", NEXT, pk.icmp(net.peer, net.pod, echo, about[14:]), dial)
    if net is V6:
        for kind in (133, 134, 135, 136):
            yield from_host(
                f"neighbour discovery {kind}", "OTHER_PROTOCOL", NEXT, pk.icmp("fe80::1", "fe80::9", kind)
            )
    no_conf = World(has_conf=False)
    yield row("error, no conf" + named, "NO_CONF", SHOT, error, no_conf)


def draining(net: Family) -> Iterator[Row]:
    pod, far = (net.pod, WEB), (net.peer, PORT)
    syn, ack = pk.segment(*far, *pod), pk.segment(*far, *pod, ACK)
    proxys = DRAINING.but(sockets=(Socket("net", pod, far),))
    named = f" {net.name}"
    yield row("proxy's" + named, "DRAIN_TO_PROXY", REDIRECT, ack, proxys)
    yield row(
        "proxy's, flags of both" + named, "DRAIN_TO_PROXY", REDIRECT, ack, proxys.but(flags=ENROLLED | DRAIN)
    )
    yield row("not the proxy's" + named, "DRAIN_PASS", NEXT, ack, DRAINING)
    yield row("SYN" + named, "DRAIN_PASS", NEXT, syn, DRAINING)
    # Of peers that have not heard yet.
    hbone, later = (pk.segment(net.peer, PORT, net.pod, 15008, flags) for flags in (SYN, ACK))
    yield row("SYN to 15008, draining" + named, "SYN_TO_PROXY", REDIRECT, hbone, DRAINING)
    nobody = DRAINING.but(slots=DRAINING.slots - {"hbone"})
    yield row("SYN to 15008, draining, nobody serves" + named, "DRAIN_PASS", NEXT, hbone, nobody)
    yield row("ACK to 15008, draining" + named, "DRAIN_PASS", NEXT, later, DRAINING)


def headers() -> Iterator[Row]:
    syn = pk.tcp(PORT, WEB)
    unreadable = {
        "first fragment v4": pk.framed(ip4(V4.peer, V4.pod, TCP, syn, is_more=True)),
        "later fragment v4": pk.framed(ip4(V4.peer, V4.pod, TCP, syn, offset_bytes=1480)),
        "cut v4": pk.framed(ip4(V4.peer, V4.pod, TCP, syn[:13])),
        "bad version v4": pk.ether(ip4(V4.peer, V4.pod, TCP, syn, version=6), pk.ETH_IPV4),
        "bad header length v4": pk.framed(ip4(V4.peer, V4.pod, TCP, syn, header_words=3)),
        "fragment v6": pk.framed(ip6(V6.peer, V6.pod, pk.FRAGMENT, pk.fragment6(TCP, syn))),
        "routing v6": pk.framed(ip6(V6.peer, V6.pod, pk.ROUTING, pk.extension(TCP, syn))),
        "cut v6": pk.framed(ip6(V6.peer, V6.pod, TCP, syn[:4])),
    }
    for name, packet in unreadable.items():
        yield row(name, "UNCLASSIFIABLE", SHOT, packet)
        yield from_host(name, "UNCLASSIFIABLE", SHOT, packet)
        yield row(f"{name}, draining", "UNCLASSIFIABLE_PASS", NEXT, packet, DRAINING)
        yield row(f"{name}, not enrolled", "UNCLASSIFIABLE_PASS", NEXT, packet, NOT_OURS)
    yield row(
        "IP options", "SYN_TO_PROXY", REDIRECT, pk.framed(ip4(V4.peer, V4.pod, TCP, syn, options=b"\x01" * 8))
    )
    hop = pk.framed(ip6(V6.peer, V6.pod, pk.HOP_BY_HOP, pk.extension(TCP, syn)))
    yield row("hop-by-hop", "SYN_TO_PROXY", REDIRECT, hop)


def fragments_of_others() -> Iterator[Row]:
    """Large datagrams and pings of an enrolled pod come in fragments; none of them can be read as TCP."""
    for offset in (0, 1480):
        v4 = pk.framed(ip4(V4.peer, V4.pod, UDP, pk.udp(53, PORT), offset_bytes=offset, is_more=True))
        yield row(f"UDP fragment at {offset} v4", "UDP_PASS", NEXT, v4)
        header = pk.fragment6(UDP, pk.udp(53, PORT), offset_bytes=offset)
        v6 = pk.framed(ip6(V6.peer, V6.pod, pk.FRAGMENT, header))
        yield row(f"UDP fragment at {offset} v6", "UDP_PASS", NEXT, v6)
    for offset, exit_name, verdict in ((0, "ICMP_REDIRECT", SHOT), (1480, "OTHER_PROTOCOL", NEXT)):
        body = bytes(15)
        v4 = pk.framed(ip4(V4.peer, V4.pod, pk.ICMP, b"\x05" + body, offset_bytes=offset, is_more=True))
        yield row(f"ICMP fragment at {offset} that begins as a redirect v4", exit_name, verdict, v4)
        header = pk.fragment6(pk.ICMP6, b"\x89" + body, offset_bytes=offset)
        v6 = pk.framed(ip6(V6.peer, V6.pod, pk.FRAGMENT, header))
        yield row(f"ICMP fragment at {offset} that begins as a redirect v6", exit_name, verdict, v6)
