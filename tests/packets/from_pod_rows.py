"""Rows of from_pod: what a pod sends, in the order of the checks of bpf/README.md#order-of-the-checks."""

from __future__ import annotations

from collections.abc import Iterator

from redirect.layout import HOOK_TO_POD, MARK_PROXY, SLOTS, Flag
from tests.packets.world import (
    DNS,
    DRAIN,
    ENROLLED,
    FAMILIES,
    HONEST,
    LEARN,
    NEXT,
    PLAIN,
    REDIRECT,
    SHOT,
    V4,
    V6,
    Bridge,
    Family,
    Other,
    Row,
    Socket,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, FIN, RST, SYN, TCP, ip4

OPEN, DRAINING, NOT_OURS = World(), World(flags=DRAIN), World(flags=PLAIN)
PORT, WEB, PROBE, SERVICE = 40001, 80, 8080, 10250


def row(name: str, exit_name: str, verdict: int, packet: bytes, world: World = OPEN, **more: object) -> Row:
    return Row(name, "from_pod", exit_name, verdict, packet, world, **more)  # type: ignore[arg-type]


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        yield from marks_and_sources(net)
        yield from closed_off(net)
        yield from new_connections(net)
        yield from learnt(net)
        yield from kept(net)
        yield from host_flows(net)
        yield from answers_to_proxy(net)
        yield from icmp(net)
        yield from datagrams(net)
        yield from dns(net)
        yield from draining(net)


def marks_and_sources(net: Family) -> Iterator[Row]:
    syn = pk.segment(net.pod, PORT, net.peer, WEB)
    named = f" {net.name}"
    yield row("proxy's own" + named, "PROXY", NEXT, syn, mark=MARK_PROXY)
    yield row("proxy's own, other bits of the mark" + named, "PROXY", NEXT, syn, mark=0xABC000 | MARK_PROXY)
    foreign = 0x1C7
    yield row(
        "mark of somebody else" + named, "SYN_TO_PROXY", REDIRECT, syn, mark=foreign, mark_after=foreign
    )
    shifted = MARK_PROXY << 12
    yield row(
        "mark outside the mask" + named, "SYN_TO_PROXY", REDIRECT, syn, mark=shifted, mark_after=shifted
    )
    yield row("device of no pod" + named, "UNKNOWN_IFACE", NEXT, syn, World(has_iface=False))
    for what, packet in (
        ("SYN", pk.segment(net.peer, PORT, net.host, WEB)),
        ("ACK", pk.segment(net.router, PORT, net.peer, WEB, ACK)),
        ("datagram", pk.datagram(net.peer, PORT, net.host, pk.UDP)),
        ("echo", pk.icmp(net.peer, net.host, 8 if net is V4 else 128)),
    ):
        yield row(f"spoofed {what}{named}", "SPOOFED", SHOT, packet)
        yield row(f"spoofed {what}, draining{named}", "SPOOFED", SHOT, packet, DRAINING)
    yield row(
        "spoofed, not enrolled" + named, "SPOOFED", SHOT, pk.segment(net.peer, PORT, net.host, WEB), NOT_OURS
    )
    yield row("not enrolled" + named, "NOT_ENROLLED", NEXT, syn, NOT_OURS)
    yield row("not enrolled, no conf" + named, "NOT_ENROLLED", NEXT, syn, NOT_OURS.but(has_conf=False))
    yield row("no conf" + named, "NO_CONF", SHOT, syn, World(has_conf=False))
    yield row("no conf, draining" + named, "NO_CONF", SHOT, syn, DRAINING.but(has_conf=False))


def closed_off(net: Family) -> Iterator[Row]:
    """Nothing is known of the pod. What this host asked by its interface is answered, and nothing else leaves."""
    pod, host, named = (net.pod, PROBE), (net.host, PORT), f" {net.name}"
    closed = World(addr4="", addr6="")
    asked = closed.but(hostflows=(net.flow(host, pod, HOOK_TO_POD),))
    for what, flags in (("SYN+ACK", SYN | ACK), ("ACK", ACK), ("FIN", FIN | ACK), ("RST", RST)):
        answer = pk.segment(*pod, *host, flags)
        yield row(f"closed, answers the host by {what}{named}", "CLOSED_HOST_FLOW", NEXT, answer, asked)
    answer, mine = pk.segment(*pod, *host, ACK), Socket("host", host, pod)
    another = Other(net.pod, bytes.fromhex("02bb000000aa"))
    for what, packet, world in (
        ("new connection", pk.segment(net.pod, PORT, net.peer, WEB), closed),
        ("of a connection elsewhere", pk.segment(net.pod, PORT, net.peer, WEB, ACK), closed),
        ("datagram", pk.datagram(net.pod, PORT, net.peer, 53), closed),
        ("echo", pk.icmp(net.pod, net.host, 8 if net is V4 else 128), asked),
        ("host has the socket, but its SYN was not seen", answer, closed.but(sockets=(mine,))),
        ("SYN on the tuple that the host asked", pk.segment(*pod, *host), asked),
        ("SYN+FIN on the same", pk.segment(*pod, *host, SYN | FIN), asked),
        ("datagram on the same", pk.datagram(*pod, *host), asked),
        ("the host asked another port", pk.segment(net.pod, 81, *host, ACK), asked),
        ("the host asked from another port", pk.segment(*pod, net.host, PORT + 1, ACK), asked),
        ("the host asked another address", pk.segment(net.peer, PROBE, *host, ACK), asked),
        ("the host asked by another interface", answer, asked.but(is_by_other=True)),
        ("the host asked another captured pod", answer, asked.but(bridge=Bridge(others=(another,)))),
    ):
        yield row(f"closed, {what}{named}", "CLOSED", SHOT, packet, world)
    if net is V6:
        for kind, exit_name, verdict in (
            (133, "CLOSED", SHOT),
            (134, "ROUTER_SPOOFED", SHOT),
            (135, "CLOSED_NEIGHBOUR", NEXT),
            (136, "CLOSED_NEIGHBOUR", NEXT),
            (137, "ROUTER_SPOOFED", SHOT),
        ):
            yield row(
                f"closed, ICMPv6 {kind}",
                exit_name,
                verdict,
                pk.icmp(net.pod, net.host, kind, bytes(20)),
                closed,
            )


def new_connections(net: Family) -> Iterator[Row]:
    def sent(flags: int) -> bytes:
        return pk.segment(net.pod, PORT, net.peer, WEB, flags)

    named = f" {net.name}"
    yield row("SYN" + named, "SYN_TO_PROXY", REDIRECT, sent(SYN))
    yield row("SYN with RST" + named, "SYN_TO_PROXY", REDIRECT, sent(SYN | RST))
    yield row("SYN to port 53" + named, "SYN_TO_PROXY", REDIRECT, pk.segment(net.pod, PORT, net.peer, 53))
    for host in (net.host, net.router):
        packet = pk.segment(net.pod, PORT, host, SERVICE)
        yield row(f"SYN to {host}", "SYN_TO_PROXY", REDIRECT, packet, World(hostips=(net.host,)))
    nobody = World(slots=frozenset({"hbone", "plaintext"}))
    yield row("SYN, nobody serves 15001" + named, "NO_LISTENER", SHOT, sent(SYN), nobody)
    yield row("ACK, nobody serves 15001" + named, "TO_PROXY", REDIRECT, sent(ACK), nobody)
    for what, flags in (
        ("SYN+ACK", SYN | ACK),
        ("ACK", ACK),
        ("FIN", FIN | ACK),
        ("RST", RST),
        ("no flag", 0),
    ):
        yield row(what + named, "TO_PROXY", REDIRECT, sent(flags))


def learnt(net: Family) -> Iterator[Row]:
    """Nothing is known of the pod but that it is about to be captured: all passes, and what begins is noted."""
    peer, world, named = (net.peer, WEB), World(flags=LEARN, addr4="", addr6=""), f" {net.name}"
    syn, begins = pk.segment(net.pod, PORT, *peer), net.both_ways(PORT, peer)
    yield row("learnt, SYN" + named, "LEARNING", NEXT, syn, world, begins=begins)
    yield row(
        "learnt, nobody listens" + named, "LEARNING", NEXT, syn, world.but(slots=frozenset()), begins=begins
    )
    for what, packet in (
        ("SYN+ACK", pk.segment(net.pod, PORT, *peer, SYN | ACK)),
        ("ACK", pk.segment(net.pod, PORT, *peer, ACK)),
        ("datagram", pk.datagram(net.pod, PORT, net.peer, 53)),
        ("echo", pk.icmp(net.pod, net.host, 8 if net is V4 else 128)),
    ):
        yield row(f"learnt, {what}{named}", "LEARNING", NEXT, packet, world)
        # Nobody captured it in time: closed, with nobody's help, also for what began meanwhile.
        for past_s in (0, 1):
            over = world.but(learnt_until_s=past_s, passthru=begins)
            yield row(f"learnt, over at {past_s}, {what}{named}", "LEARN_OVER", SHOT, packet, over)
    answer = pk.segment(net.pod, WEB, net.host, PORT, SYN | ACK)
    asked = world.but(learnt_until_s=1, hostflows=(net.flow((net.host, PORT), (net.pod, WEB), HOOK_TO_POD),))
    yield row("learnt, over, answers its node" + named, "CLOSED_HOST_FLOW", NEXT, answer, asked)


def kept(net: Family) -> Iterator[Row]:
    peer = (net.peer, WEB)
    out, back = net.both_ways(PORT, peer)
    both = World(passthru=(out, back))
    syn, ack = (pk.segment(net.pod, PORT, *peer, flags) for flags in (SYN, ACK))
    syn_ack = pk.segment(net.pod, PORT, *peer, SYN | ACK)
    named = f" {net.name}"
    yield row("kept" + named, "GRANDFATHERED", NEXT, ack, both)
    yield row("kept, SYN+ACK" + named, "GRANDFATHERED", NEXT, syn_ack, both)
    yield row("kept for a time" + named, "GRANDFATHERED", NEXT, ack, both.but(kept_until_ns=1 << 62))
    yield row("kept, its time is over" + named, "TO_PROXY", REDIRECT, ack, both.but(kept_until_ns=1))
    yield row("only the other direction is kept" + named, "TO_PROXY", REDIRECT, ack, World(passthru=(back,)))
    other = pk.segment(net.pod, PORT + 1, *peer, ACK)
    yield row("another port is kept" + named, "TO_PROXY", REDIRECT, other, both)
    # LRU eviction takes one direction alone; the one that is left would send answers past the proxy
    for which, entries in (("both", (out, back)), ("this direction", (out,)), ("the other", (back,))):
        world = World(passthru=entries)
        yield row(f"SYN ends kept, {which}{named}", "SYN_TO_PROXY", REDIRECT, syn, world, is_end_of_kept=True)
    nobody = both.but(slots=frozenset())
    yield row("SYN ends kept, nobody serves" + named, "NO_LISTENER", SHOT, syn, nobody, is_end_of_kept=True)


def host_flows(net: Family) -> Iterator[Row]:
    pod, host, far = (net.pod, PROBE), (net.host, PORT), (net.router, PORT)
    answer, syn = pk.segment(*pod, *host, SYN | ACK), pk.segment(*pod, *host)
    noted = World(hostflows=(net.flow(host, pod, HOOK_TO_POD),))
    known = World(hostips=(net.host,))
    named = f" {net.name}"
    yield row("answer to a noted flow" + named, "HOST_FLOW", NEXT, answer, noted)
    translated = World(hostflows=(net.flow(far, pod, HOOK_TO_POD),))
    yield row("noted after NAT" + named, "HOST_FLOW", NEXT, pk.segment(*pod, *far, ACK), translated)
    yield row(
        "noted for another port" + named, "TO_PROXY", REDIRECT, pk.segment(net.pod, 81, *host, ACK), noted
    )
    yield row("SYN on a noted tuple" + named, "SYN_TO_PROXY", REDIRECT, syn, noted)
    listening = noted.but(sockets=(Socket("pod", host, state="listening"),))
    yield row("noted, proxy only listens there" + named, "HOST_FLOW", NEXT, answer, listening)
    wrong_side = noted.but(sockets=(Socket("net", host, pod),))
    yield row("noted, a socket of the other side" + named, "HOST_FLOW", NEXT, answer, wrong_side)
    mine = Socket("host", host, pod)
    yield row(
        "host opened it before the agent" + named, "HOST_OPENED", NEXT, answer, known.but(sockets=(mine,))
    )
    yield row("the same to no host address" + named, "TO_PROXY", REDIRECT, answer, World(sockets=(mine,)))
    yield row("host has no such socket" + named, "TO_PROXY", REDIRECT, answer, known)
    late = (net.host, PORT + 9)  # outlives the row, so the tuple is used by no other
    waits = known.but(sockets=(Socket("host", late, pod, "time_wait"),))
    yield row("host's waits" + named, "HOST_OPENED", NEXT, pk.segment(*pod, *late, ACK), waits)
    served = known.but(sockets=(mine, Socket("host", host, state="listening")))
    yield row("pod had dialled a service of the host" + named, "TO_PROXY", REDIRECT, answer, served)
    yield row("SYN to the host's tuple" + named, "SYN_TO_PROXY", REDIRECT, syn, known.but(sockets=(mine,)))


def answers_to_proxy(net: Family) -> Iterator[Row]:
    """The proxy's dial goes before what the host may know of the tuple. Each row has its own: TIME_WAIT stays."""
    pod, named = (net.pod, PROBE), f" {net.name}"
    for index, state in enumerate(("established", "syn_recv", "time_wait")):
        for offset, which in ((1, "noted"), (2, "host address")):
            host = (net.host, PORT + 10 * index + offset)
            answer, proxy = pk.segment(*pod, *host, ACK), Socket("pod", host, pod, state)
            if which == "noted":
                world = World(hostflows=(net.flow(host, pod, HOOK_TO_POD),), sockets=(proxy,))
            else:
                world = World(hostips=(net.host,), sockets=(proxy, Socket("host", host, pod)))
            yield row(f"{which}, proxy's is {state}{named}", "ANSWER_TO_PROXY", REDIRECT, answer, world)


def icmp(net: Family) -> Iterator[Row]:
    """Errors that the pod sends about a dial of the proxy: `about` went to the pod, source = the client."""
    client, pod = (net.peer, PORT), (net.pod, PROBE)
    about = pk.segment(*client, *pod, ACK)
    dialled = World(sockets=(Socket("pod", client, pod),))
    named = f" {net.name}"
    errors = (3, 11, 12) if net is V4 else (1, 2, 3, 4, 5, 127)
    for kind in errors:
        error = pk.icmp_error(net.pod, net.peer, kind, about)
        yield row(f"error {kind}{named}", "ICMP_TO_PROXY", REDIRECT, error, dialled)
        yield row(
            f"error {kind}, draining{named}", "ICMP_TO_PROXY", REDIRECT, error, dialled.but(flags=DRAIN)
        )
        yield row(f"error {kind}, no socket{named}", "OTHER_PROTOCOL", NEXT, error)
    kind = errors[0]
    error = pk.icmp_error(net.pod, net.peer, kind, about)
    wrong = World(sockets=(Socket("net", client, pod),))
    yield row("error, socket of the other side" + named, "OTHER_PROTOCOL", NEXT, error, wrong)
    yield row("error, not enrolled" + named, "NOT_ENROLLED", NEXT, error, dialled.but(flags=PLAIN))
    # about a packet that was not sent to this pod: it claims to speak of a neighbour's connection
    other = (net.router, PROBE)
    foreign = pk.icmp_error(net.pod, net.peer, kind, pk.segment(*client, *other, ACK))
    neighbour = World(sockets=(Socket("pod", client, other),))
    yield row("error about another's connection" + named, "OTHER_PROTOCOL", NEXT, foreign, neighbour)
    about_udp = pk.icmp_error(net.pod, net.peer, kind, pk.datagram(*client, *pod))
    yield row("error about UDP" + named, "OTHER_PROTOCOL", NEXT, about_udp, dialled)
    cut = pk.icmp_error(net.pod, net.peer, kind, about[: 14 + (20 if net is V4 else 40) + 2])
    yield row("error cut before the ports" + named, "OTHER_PROTOCOL", NEXT, cut, dialled)
    if net is V4:
        inner = ip4(net.peer, net.pod, TCP, pk.tcp(PORT, PROBE, ACK), options=b"\x01" * 12)
        with_options = pk.icmp(net.pod, net.peer, kind, inner)
        yield row("error about a packet with options", "ICMP_TO_PROXY", REDIRECT, with_options, dialled)
    empty = pk.icmp(net.pod, net.peer, kind)
    yield row("error about nothing" + named, "OTHER_PROTOCOL", NEXT, empty, dialled)
    for kind in (0, 8, 13) if net is V4 else (128, 129):
        packet = pk.icmp_error(net.pod, net.peer, kind, about)
        yield row(f"ICMP {kind} is no error{named}", "OTHER_PROTOCOL", NEXT, packet, dialled)


def datagrams(net: Family) -> Iterator[Row]:
    query, quic = pk.datagram(net.pod, PORT, net.peer, 53), pk.datagram(net.pod, PORT, net.peer, 443)
    answer = pk.datagram(net.pod, 53, net.peer, PORT)
    named = f" {net.name}"
    yield row("UDP" + named, "UDP_PASS", NEXT, quic)
    yield row("UDP from port 53" + named, "UDP_PASS", NEXT, answer)
    yield row("UDP cut" + named, "UDP_PASS", NEXT, query[:-8])


def dns(net: Family) -> Iterator[Row]:
    """A pod whose DNS is captured, and one whose is not."""
    query, captured = pk.datagram(net.pod, PORT, net.peer, 53), World(flags=DNS)
    named = f" {net.name}"
    yield row("DNS" + named, "DNS_TO_PROXY", REDIRECT, query, captured)
    to_host = pk.datagram(net.pod, PORT, net.host, 53)
    yield row("DNS to the host" + named, "DNS_TO_PROXY", REDIRECT, to_host, captured)
    yield row(
        "DNS where it may pass" + named, "DNS_TO_PROXY", REDIRECT, query, captured.but(is_dns_open=True)
    )
    yield row("DNS, not captured" + named, "UDP_PASS", NEXT, query)
    yield row("DNS, not captured, nobody serves" + named, "UDP_PASS", NEXT, query, World(slots=frozenset()))
    yield row("DNS, draining" + named, "DRAIN_PASS", NEXT, query, DRAINING.but(flags=Flag.DRAIN | Flag.DNS))
    unserved = captured.but(slots=frozenset(SLOTS) - {"outbound"})
    yield row("DNS, nobody serves" + named, "DNS_UNSERVED", SHOT, query, unserved)
    yield row("DNS, nobody serves, open" + named, "DNS_OPEN", NEXT, query, unserved.but(is_dns_open=True))
    fast = captured.but(budget_used=True)
    yield row("DNS, too fast" + named, "DNS_TOO_FAST", SHOT, query, fast)
    yield row("DNS, too fast, open" + named, "DNS_TOO_FAST", SHOT, query, fast.but(is_dns_open=True))
    yield row(
        "UDP, while DNS is too fast" + named,
        "UDP_PASS",
        NEXT,
        pk.datagram(net.pod, PORT, net.peer, 443),
        fast,
    )
    yield row("own DNS of the proxy" + named, "PROXY", NEXT, query, captured, mark=MARK_PROXY)
    yield row("UDP beside DNS" + named, "UDP_PASS", NEXT, pk.datagram(net.pod, 53, net.peer, PORT), captured)
    yield row("DNS cut" + named, "UDP_PASS", NEXT, query[:-8], captured)
    held = World(flags=HONEST | Flag.DNS, has_ring=True)
    over_tcp = pk.segment(net.pod, PORT, net.peer, 53)
    yield row("DNS over TCP" + named, "SYN_TO_PROXY", REDIRECT, over_tcp, captured)
    # The proxy answers it: nobody is dialled who could have to answer first.
    yield row("DNS over TCP, honest" + named, "SYN_TO_PROXY", REDIRECT, over_tcp, held)


def draining(net: Family) -> Iterator[Row]:
    pod, client = (net.pod, PROBE), (net.peer, PORT)
    answer, syn = pk.segment(*pod, *client, ACK), pk.segment(*pod, *client)
    proxys = DRAINING.but(sockets=(Socket("pod", client, pod),))
    named = f" {net.name}"
    yield row("proxy's" + named, "DRAIN_TO_PROXY", REDIRECT, answer, proxys)
    both = proxys.but(flags=ENROLLED | DRAIN)
    yield row("proxy's, flags of both" + named, "DRAIN_TO_PROXY", REDIRECT, answer, both)
    yield row("not the proxy's" + named, "DRAIN_PASS", NEXT, answer, DRAINING)
    yield row("UDP on the proxy's tuple" + named, "DRAIN_PASS", NEXT, pk.datagram(*pod, *client), proxys)
    yield row("SYN" + named, "DRAIN_PASS", NEXT, syn, DRAINING)
    yield row("SYN, flags of both" + named, "DRAIN_PASS", NEXT, syn, World(flags=ENROLLED | DRAIN))
    fragment = pk.framed(ip4(V4.pod, V4.peer, TCP, pk.tcp(PROBE, PORT), is_more=True))
    yield row("fragment" + named, "DRAIN_PASS", NEXT, fragment, DRAINING)
