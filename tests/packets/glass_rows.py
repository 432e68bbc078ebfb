"""Rows of a pod that somebody opened for a while: what begins meanwhile goes its way, and nothing after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from redirect.layout import HOOK_OPEN, HOOK_TO_POD, MARK_PROXY
from tests.packets.world import (
    DNS,
    DRAIN,
    FAMILIES,
    FORWARDED,
    HONEST,
    NEXT,
    PLAIN,
    REDIRECT,
    SHOT,
    Bridge,
    Family,
    Other,
    Row,
    Socket,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, FIN, RST, SYN

OPEN = World(opening="pod")
NODE, FORMER, OVER = World(opening="node"), World(opening="former"), World(opening="over")
PORT, WEB, HBONE = 40007, 80, 15008
OTHER_MAC = bytes.fromhex("02bb000000ac")


def from_pod(name: str, exit_name: str, verdict: int, packet: bytes, world: World, **more: object) -> Row:
    return Row(f"glass {name}", "from_pod", exit_name, verdict, packet, world, **more)  # type: ignore[arg-type]


def to_pod(name: str, exit_name: str, verdict: int, packet: bytes, world: World, **more: object) -> Row:
    made = Row(f"glass {name}", "to_pod", exit_name, verdict, packet, world, ingress_ifindex=FORWARDED)
    return replace(made, head="net side" if verdict == REDIRECT else "", **more)  # type: ignore[arg-type]


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        yield from opened_by_the_pod(net)
        yield from opened_to_the_pod(net)
        yield from later(net)
        yield from what_stays(net)
        yield from names(net)
        yield from by_way_of_the_host(net)


def opened_by_the_pod(net: Family) -> Iterator[Row]:
    named, pod, peer = net.name, (net.pod, PORT), (net.peer, WEB)
    syn, flow = pk.segment(*pod, *peer), net.flow(pod, peer, HOOK_OPEN)
    deaf = frozenset[str]()
    for what, world in (
        ("SYN", OPEN),
        ("SYN, of the node", NODE),
        ("SYN, nobody serves", OPEN.but(slots=deaf)),
        ("SYN, honest", OPEN.but(flags=HONEST, has_ring=True)),
        ("SYN, TIME_WAIT at the proxy", OPEN.but(sockets=(Socket("pod", peer, pod, "time_wait"),))),
        ("SYN again", OPEN.but(opened=(flow,))),
    ):
        yield from_pod(f"{what}, {named}", "OPEN_SYN", NEXT, syn, world, notes=(flow,))
    kept = OPEN.but(passthru=net.both_ways(PORT, peer))
    yield from_pod(f"SYN ends kept, {named}", "OPEN_SYN", NEXT, syn, kept, notes=(flow,), is_end_of_kept=True)
    for what, world in (
        ("SYN once it is over", OVER),
        ("SYN on a tuple of then", OVER.but(opened=(flow,))),
        ("SYN of another pod under the number", FORMER),
        ("SYN of a connection that the proxy has", OPEN.but(sockets=(Socket("pod", peer, pod),))),
    ):
        yield from_pod(f"{what}, {named}", "SYN_TO_PROXY", REDIRECT, syn, world)
    yield from_pod(
        f"SYN once it is over, nobody serves, {named}", "NO_LISTENER", SHOT, syn, OVER.but(slots=deaf)
    )


def opened_to_the_pod(net: Family) -> Iterator[Row]:
    named, pod, peer = net.name, (net.pod, WEB), (net.peer, PORT)
    syn, flow = pk.segment(*peer, *pod), net.flow(pod, peer, HOOK_OPEN)
    for what, world in (
        ("SYN", OPEN),
        ("SYN, of the node", NODE),
        ("SYN, nobody serves", OPEN.but(slots=frozenset())),
    ):
        yield to_pod(f"{what}, {named}", "OPEN_SYN", NEXT, syn, world, notes=(flow,))
    for what, world in (("SYN once it is over", OVER), ("SYN to another pod under the number", FORMER)):
        yield to_pod(f"{what}, {named}", "SYN_TO_PROXY", REDIRECT, syn, world)
    hbone = pk.segment(*peer, net.pod, HBONE)
    yield to_pod(f"SYN to 15008, {named}", "SYN_TO_PROXY", REDIRECT, hbone, OPEN)
    without = OPEN.but(slots=frozenset({"outbound", "plaintext"}))
    yield to_pod(f"SYN to 15008, nobody serves, {named}", "NO_LISTENER", SHOT, hbone, without)


def later(net: Family) -> Iterator[Row]:
    named, pod, peer = net.name, (net.pod, PORT), (net.peer, WEB)
    flow = net.flow(pod, peer, HOOK_OPEN)
    begun = OPEN.but(opened=(flow,))
    for what, flags in (("ACK", ACK), ("FIN", FIN | ACK), ("RST", RST), ("SYN+ACK", SYN | ACK)):
        sent, received = pk.segment(*pod, *peer, flags), pk.segment(*peer, *pod, flags)
        yield from_pod(f"{what}, {named}", "OPEN", NEXT, sent, begun)
        yield to_pod(f"{what}, {named}", "OPEN", NEXT, received, begun)
        for how, world in (
            ("without its SYN", OPEN),
            ("of an earlier opening", begun.but(began_before=True)),
            ("once it is over", OVER.but(opened=(flow,))),
            ("closed early", World(opened=(flow,))),
            ("of another pod under the number", FORMER.but(opened=(flow,))),
        ):
            yield from_pod(f"{what} {how}, {named}", "TO_PROXY", REDIRECT, sent, world)
            yield to_pod(f"{what} {how}, {named}", "TO_PROXY", REDIRECT, received, world)
    ack, answer = pk.segment(*pod, *peer, ACK), pk.segment(*peer, *pod, ACK)
    for state in ("established", "time_wait"):
        dials = begun.but(sockets=(Socket("pod", peer, pod, state), Socket("net", pod, peer, state)))
        yield from_pod(f"ACK, {state} at the proxy, {named}", "OPEN", NEXT, ack, dials)
        yield to_pod(f"ACK, {state} at the proxy, {named}", "OPEN", NEXT, answer, dials)
    by_host = replace(to_pod(f"answer of the host, {named}", "OPEN", NEXT, answer, begun), ingress_ifindex=0)
    yield by_host
    # What the host opened goes on as ever.
    probe = net.flow((net.host, PORT), (net.pod, WEB), HOOK_TO_POD)
    noted = OPEN.but(hostflows=(probe,))
    ack = pk.segment(net.pod, WEB, net.host, PORT, ACK)
    yield from_pod(f"answer to the host, {named}", "HOST_FLOW", NEXT, ack, noted)


def what_stays(net: Family) -> Iterator[Row]:
    """Whose address it is, what cannot be read, what a pod that drains has, what the proxy sends."""
    # Another port than where a socket was: it may be in TIME_WAIT yet.
    named, pod, peer = net.name, (net.pod, PORT + 1), (net.peer, WEB)
    syn = pk.segment(*pod, *peer)
    yield from_pod(f"spoofed, {named}", "SPOOFED", SHOT, pk.segment(net.router, PORT, *peer), OPEN)
    yield from_pod(f"closed off, {named}", "CLOSED", SHOT, syn, NODE.but(addr4="", addr6=""))
    yield from_pod(f"draining, {named}", "DRAIN_PASS", NEXT, syn, OPEN.but(flags=DRAIN))
    yield from_pod(f"not enrolled, {named}", "NOT_ENROLLED", NEXT, syn, OPEN.but(flags=PLAIN))
    yield from_pod(f"no conf, {named}", "NO_CONF", SHOT, syn, OPEN.but(has_conf=False))
    yield from_pod(f"of the proxy, {named}", "PROXY", NEXT, syn, OPEN, mark=MARK_PROXY)
    yield to_pod(
        f"not enrolled, {named}", "NOT_ENROLLED", NEXT, pk.segment(*peer, *pod), OPEN.but(flags=PLAIN)
    )


def names(net: Family) -> Iterator[Row]:
    """DNS that is captured goes to the name server that the pod asks."""
    asked = pk.datagram(net.pod, PORT, net.peer, 53)
    for what, world in (("", OPEN), (" of the node", NODE), (", nobody serves", OPEN.but(slots=frozenset()))):
        yield from_pod(f"DNS{what}, {net.name}", "OPEN_DNS", NEXT, asked, world.but(flags=DNS))
    yield from_pod(f"DNS once it is over, {net.name}", "DNS_TO_PROXY", REDIRECT, asked, OVER.but(flags=DNS))
    yield from_pod(f"DNS that is not captured, {net.name}", "UDP_PASS", NEXT, asked, OPEN)


def by_way_of_the_host(net: Family) -> Iterator[Row]:
    """Workers that dial a pod of this node by the host take the connection at its other end themselves."""
    named, pod, client = net.name, (net.pod, WEB), (net.router, PORT)
    syn, flow = pk.segment(*client, *pod), net.flow(pod, client, HOOK_OPEN)
    here = OPEN.but(bridge=Bridge(others=(Other(net.router, OTHER_MAC, is_on_bridge=False),)))
    yield to_pod(f"SYN of a pod of this node, {named}", "OPEN_SYN", NEXT, syn, here, notes=(flow,))
    by_host = here.but(plaintext_by_ports=True)
    yield to_pod(f"the same by way of the host, {named}", "SYN_TO_PROXY", REDIRECT, syn, by_host)
    stranger = OPEN.but(plaintext_by_ports=True)
    yield to_pod(
        f"SYN of another, by way of the host, {named}", "OPEN_SYN", NEXT, syn, stranger, notes=(flow,)
    )
