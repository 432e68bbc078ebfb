"""Rows of a pod whose inbound connections go past the proxy: all but HBONE, and nothing that the pod opens itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from redirect.layout import HOOK_TO_POD
from tests.packets.world import (
    BYPASS,
    DRAIN,
    ENROLLED,
    FAMILIES,
    FORWARDED,
    HONEST,
    NEXT,
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

OPEN = World(flags=BYPASS)
PORT, WEB, HBONE = 40003, 80, 15008
OTHER_MAC = bytes.fromhex("02bb000000ab")


def to_pod(name: str, exit_name: str, verdict: int, packet: bytes, world: World, **more: object) -> Row:
    made = Row(name, "to_pod", exit_name, verdict, packet, world, ingress_ifindex=FORWARDED)
    return replace(made, head="net side" if verdict == REDIRECT else "", **more)  # type: ignore[arg-type]


def from_pod(name: str, exit_name: str, verdict: int, packet: bytes, world: World) -> Row:
    return Row(name, "from_pod", exit_name, verdict, packet, world)


def rows() -> Iterator[Row]:
    for net in FAMILIES:
        yield from opened(net)
        yield from later(net)
        yield from answers(net)
        yield from by_way_of_the_host(net)


def opened(net: Family) -> Iterator[Row]:
    named, pod, peer = f"bypass {net.name}", (net.pod, WEB), (net.peer, PORT)
    syn, flow = pk.segment(*peer, *pod), net.flow(peer, pod, HOOK_TO_POD)
    for what, world in (
        ("SYN", OPEN),
        ("SYN again", World(flags=BYPASS, bypassed=(flow,))),
        ("SYN, nobody serves", OPEN.but(slots=frozenset())),
        ("SYN, honest", OPEN.but(flags=BYPASS | HONEST, has_ring=True)),
    ):
        yield to_pod(f"{what}, {named}", "BYPASS_SYN", NEXT, syn, world, notes_bypassed=(flow,))
    kept = OPEN.but(passthru=net.both_ways(WEB, peer))
    yield to_pod(
        f"SYN ends kept, {named}", "BYPASS_SYN", NEXT, syn, kept, notes_bypassed=(flow,), is_end_of_kept=True
    )
    hbone = pk.segment(*peer, net.pod, HBONE)
    yield to_pod(f"SYN to 15008, {named}", "SYN_TO_PROXY", REDIRECT, hbone, OPEN)
    without = OPEN.but(slots=OPEN.slots - {"hbone"})
    yield to_pod(f"SYN to 15008, nobody serves, {named}", "NO_LISTENER", SHOT, hbone, without)
    yield to_pod(f"SYN, draining, {named}", "DRAIN_PASS", NEXT, syn, World(flags=DRAIN))
    again = World(bypassed=(flow,))
    yield to_pod(
        f"SYN, captured again, {named}", "SYN_TO_PROXY", REDIRECT, syn, again, is_end_of_bypassed=True
    )
    # What the pod opens is captured as ever.
    yield from_pod(f"SYN of the pod, {named}", "SYN_TO_PROXY", REDIRECT, pk.segment(*pod, *peer), OPEN)
    on_tuple = OPEN.but(bypassed=(flow,))
    yield from_pod(
        f"SYN of the pod on that tuple, {named}", "SYN_TO_PROXY", REDIRECT, pk.segment(*pod, *peer), on_tuple
    )


def later(net: Family) -> Iterator[Row]:
    named, pod, peer = f"bypass {net.name}", (net.pod, WEB), (net.peer, PORT)
    flow = net.flow(peer, pod, HOOK_TO_POD)
    past = OPEN.but(bypassed=(flow,))
    for what, flags in (("ACK", ACK), ("FIN", FIN | ACK), ("RST", RST), ("SYN+ACK", SYN | ACK)):
        packet = pk.segment(*peer, *pod, flags)
        yield to_pod(f"{what}, {named}", "BYPASSED", NEXT, packet, past)
        yield to_pod(f"{what} without its SYN, {named}", "TO_PROXY", REDIRECT, packet, OPEN)
        captured_again = past.but(flags=ENROLLED)
        yield to_pod(f"{what}, captured again, {named}", "TO_PROXY", REDIRECT, packet, captured_again)
    ack = pk.segment(*peer, *pod, ACK)
    dial = past.but(sockets=(Socket("net", pod, peer),))
    yield to_pod(f"answer to a dial of the proxy, {named}", "TO_PROXY", REDIRECT, ack, dial)
    hbone = pk.segment(*peer, net.pod, HBONE, ACK)
    noted = OPEN.but(bypassed=(net.flow(peer, (net.pod, HBONE), HOOK_TO_POD),))
    yield to_pod(f"ACK to 15008, {named}", "TO_PROXY", REDIRECT, hbone, noted)


def answers(net: Family) -> Iterator[Row]:
    named, pod, peer = f"bypass {net.name}", (net.pod, WEB), (net.peer, PORT)
    flow = net.flow(peer, pod, HOOK_TO_POD)
    past = OPEN.but(bypassed=(flow,))
    for what, flags in (("SYN+ACK", SYN | ACK), ("ACK", ACK), ("RST", RST)):
        packet = pk.segment(*pod, *peer, flags)
        yield from_pod(f"answer by {what}, {named}", "BYPASSED", NEXT, packet, past)
        yield from_pod(f"{what} that answers nothing, {named}", "TO_PROXY", REDIRECT, packet, OPEN)
        captured_again = past.but(flags=ENROLLED)
        # Both ends are about to be told, and the pod's reset tells the client.
        exit_name, verdict = ("BYPASSED", NEXT) if flags == RST else ("BYPASS_OVER", SHOT)
        yield from_pod(f"{what}, captured again, {named}", exit_name, verdict, packet, captured_again)
    ack = pk.segment(*pod, *peer, ACK)
    client = past.but(sockets=(Socket("pod", peer, pod),))
    for what, flags in (("of the proxy's own", BYPASS), ("of the proxy's own, captured again", ENROLLED)):
        own = client.but(flags=flags)
        yield from_pod(f"{what}, {named}", "ANSWER_TO_PROXY", REDIRECT, ack, own)
    # Nothing is known of the pod any more: only what the node itself asked is answered.
    yield from_pod(f"closed off, {named}", "CLOSED", SHOT, ack, past.but(addr4="", addr6=""))


def by_way_of_the_host(net: Family) -> Iterator[Row]:
    """Workers that dial a pod of this node by the host take the connection at its other end themselves."""
    named, pod, client = f"bypass {net.name}", (net.pod, WEB), (net.router, PORT)
    syn, flow = pk.segment(*client, *pod), net.flow(client, pod, HOOK_TO_POD)
    here = OPEN.but(bridge=Bridge(others=(Other(net.router, OTHER_MAC, is_on_bridge=False),)))
    by_host = here.but(plaintext_by_ports=True)
    yield to_pod(f"SYN of a pod of this node, {named}", "BYPASS_SYN", NEXT, syn, here, notes_bypassed=(flow,))
    yield to_pod(f"the same by way of the host, {named}", "SYN_TO_PROXY", REDIRECT, syn, by_host)
    ack, noted = pk.segment(*client, *pod, ACK), by_host.but(bypassed=(flow,))
    yield to_pod(f"ACK by way of the host, {named}", "TO_PROXY", REDIRECT, ack, noted)
    stranger = OPEN.but(plaintext_by_ports=True)
    yield to_pod(f"SYN of another, {named}", "BYPASS_SYN", NEXT, syn, stranger, notes_bypassed=(flow,))
