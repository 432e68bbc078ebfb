"""Rows of pods on a bridge: whose MAC a frame in a pod's name carries, and what the pod's link teaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from redirect.layout import MARK_PROXY, Neighbour
from tests.packets.world import (
    BRIDGE_MAC,
    DRAIN,
    FORWARDED,
    NEXT,
    REDIRECT,
    SHOT,
    V4,
    V6,
    Bridge,
    Other,
    Row,
    World,
)
from tests.support import packets as pk
from tests.support.packets import ACK, SYN

NEAR = {"v4": "10.77.0.20", "v6": "fd77::20"}
"""On the pod's link."""
ROUTER = {"v4": "10.77.0.254", "v6": "fe80::fe"}
"""Its gateway, where that is another machine."""
NEAR_MAC, ROUTER_MAC, NEW_MAC = (bytes.fromhex(f"02cc0000000{number}") for number in (1, 2, 3))
KNOWN, GATEWAY = Neighbour(NEAR_MAC), Neighbour(ROUTER_MAC)
USED, GATEWAY_USED = Neighbour(NEAR_MAC, is_used=True), Neighbour(ROUTER_MAC, is_used=True)
LEARNT, LEARNT_ANEW = Neighbour(pk.SOURCE_MAC), Neighbour(NEW_MAC)


def rows() -> Iterator[Row]:
    for net in (V4, V6):
        yield from sent(net.name)
        yield from through_gateways(net.name)
    yield from arp()
    yield from discovery()


def out(name: str, exit_name: str, verdict: int, packet: bytes, bridge: Bridge | None, **more: object) -> Row:
    world = more.pop("world", World())
    assert isinstance(world, World)
    made = Row(name, "from_net_side", exit_name, verdict, packet, world.but(bridge=bridge), head="out")
    if verdict == REDIRECT:
        made = replace(made, mark_after=MARK_PROXY)
    return replace(made, **more)  # type: ignore[arg-type]


def sent(family: str) -> Iterator[Row]:
    """The node is the gateway: the bridge's MAC is that of the next hop."""
    net, near, named = (V4 if family == "v4" else V6), NEAR[family], f" {family}"
    to_near, away = pk.segment(net.pod, 1, near, 80), pk.segment(net.pod, 1, net.peer, 80)
    knows = Bridge(neighbours=((near, KNOWN),))
    neighbour = {"goes_to": NEAR_MAC, "learns": ((near, USED),)}
    yield out("off the link" + named, "TO_HOST", REDIRECT, away, knows)
    for what, flags in (("SYN", SYN), ("SYN+ACK", SYN | ACK), ("ACK", ACK)):
        packet = pk.segment(net.pod, 1, near, 80, flags)
        yield out(f"{what} to a neighbour{named}", "TO_NEIGHBOUR", REDIRECT, packet, knows, **neighbour)
    draining = World(flags=DRAIN)
    yield out(
        "draining, to a neighbour" + named,
        "TO_NEIGHBOUR",
        REDIRECT,
        to_near,
        knows,
        world=draining,
        **neighbour,
    )
    datagram = pk.datagram(net.pod, 1, near, 80)
    yield out("datagram to a neighbour" + named, "TO_NEIGHBOUR", REDIRECT, datagram, knows, **neighbour)
    # the prefix says what is near: all of it, this much, nothing
    yield out(
        "prefix of no bits" + named,
        "TO_NEIGHBOUR",
        REDIRECT,
        away,
        replace(knows, bits=(0, 0), neighbours=((net.peer, KNOWN),)),
        goes_to=NEAR_MAC,
        learns=((net.peer, USED),),
    )
    edge = (27, 122)
    yield out(
        "inside the prefix" + named, "TO_NEIGHBOUR", REDIRECT, to_near, replace(knows, bits=edge), **neighbour
    )
    narrow = (28, 123)
    yield out("outside the prefix" + named, "TO_HOST", REDIRECT, to_near, replace(knows, bits=narrow))
    yield out("prefix of all bits" + named, "TO_HOST", REDIRECT, to_near, replace(knows, bits=(32, 128)))
    # not known: whoever routes it, and the pod's kernel is to ask
    yield out("unknown neighbour" + named, "TO_HOST", REDIRECT, to_near, Bridge(), asks=(near,))
    captured = Bridge(others=(Other(near, NEAR_MAC),))
    yield out(
        "unknown, but captured too" + named,
        "TO_NEIGHBOUR",
        REDIRECT,
        to_near,
        captured,
        goes_to=NEAR_MAC,
        asks=(near,),
    )
    # what ARP says wins: a bridge that isolates its ports has the node answer for everybody
    both = Bridge(others=(Other(near, NEW_MAC),), neighbours=((near, KNOWN),))
    yield out("known and captured" + named, "TO_NEIGHBOUR", REDIRECT, to_near, both, **neighbour)
    elsewhere = Bridge(others=(Other(near, NEAR_MAC, is_on_bridge=False),))
    yield out("captured on another bridge" + named, "TO_HOST", REDIRECT, to_near, elsewhere, asks=(near,))
    node = World(hostips=(near,))
    yield out(
        "the node itself" + named, "TO_NEIGHBOUR", REDIRECT, to_near, Bridge(), world=node, goes_to=BRIDGE_MAC
    )
    itself = pk.segment(net.pod, 1, net.pod, 80)
    yield out("to the pod itself" + named, "TO_HOST", REDIRECT, itself, Bridge())
    yield out("no gateway" + named, "NO_NEXT_HOP", SHOT, away, Bridge(has_hop=False), goes_to=bytes(6))
    lonely = Bridge(has_hop=False)
    yield out(
        "no gateway, unknown neighbour" + named,
        "NO_NEXT_HOP",
        SHOT,
        to_near,
        lonely,
        goes_to=bytes(6),
        asks=(near,),
    )
    yield out(
        "no gateway" + named + ", neighbour",
        "TO_NEIGHBOUR",
        REDIRECT,
        to_near,
        replace(knows, has_hop=False),
        **neighbour,
    )
    no_iface = World(has_iface=False)
    yield out("interface unknown" + named, "NO_IFACE", SHOT, away, Bridge(), world=no_iface)


def through_gateways(family: str) -> Iterator[Row]:
    """The gateway is another machine."""
    net, near, router, named = (V4 if family == "v4" else V6), NEAR[family], ROUTER[family], f" {family}"
    to_near, away = pk.segment(net.pod, 1, near, 80), pk.segment(net.pod, 1, net.peer, 80)
    flat = Bridge(gateways=(router,), neighbours=((router, GATEWAY),))
    by_router = {"goes_to": ROUTER_MAC, "learns": ((router, GATEWAY_USED),)}
    yield out("by a gateway" + named, "TO_HOST", REDIRECT, away, flat, **by_router)
    yield out(
        "unknown neighbour, by a gateway" + named,
        "TO_HOST",
        REDIRECT,
        to_near,
        flat,
        asks=(near,),
        **by_router,
    )
    forgotten = replace(flat, neighbours=())
    yield out("gateway forgotten" + named, "TO_HOST", REDIRECT, away, forgotten, asks=(router,))
    nowhere = replace(forgotten, has_hop=False)
    yield out(
        "gateway never known" + named, "NO_NEXT_HOP", SHOT, away, nowhere, goes_to=bytes(6), asks=(router,)
    )


def told(name: str, exit_name: str, packet: bytes, *learns: tuple[str, Neighbour], **more: object) -> Row:
    """What is sent to a pod on a bridge, and goes on whatever it says."""
    world = more.pop("world", World(bridge=Bridge()))
    assert isinstance(world, World)
    return Row(name, "to_pod", exit_name, NEXT, packet, world, ingress_ifindex=FORWARDED, learns=learns)


def arp() -> Iterator[Row]:
    def heard(name: str, packet: bytes, *learns: tuple[str, Neighbour], **more: object) -> Row:
        return told(f"ARP, {name}", "NOT_IP", packet, *learns, **more)

    near, far, router = NEAR["v4"], V4.peer, ROUTER["v4"]
    knows = World(bridge=Bridge(neighbours=((near, Neighbour(NEW_MAC)),)))
    yield heard("a neighbour asks", pk.arp(near, V4.pod), (near, LEARNT))
    yield heard("a neighbour answers", pk.arp(near, V4.pod, operation=2), (near, LEARNT))
    yield heard("draining", pk.arp(near, V4.pod), (near, LEARNT), world=World(flags=DRAIN, bridge=Bridge()))
    yield heard("asks another", pk.arp(near, "10.77.0.30"))
    yield heard("known, asks another", pk.arp(near, "10.77.0.30"), (near, LEARNT), world=knows)
    yield heard("known, tells all", pk.arp(near, near), (near, LEARNT), world=knows)
    yield heard("unknown, tells all", pk.arp(near, near))
    set_by_hand = World(bridge=Bridge(neighbours=((near, Neighbour(NEW_MAC, is_permanent=True)),)))
    yield heard("another MAC than was set in the pod", pk.arp(near, V4.pod), world=set_by_hand)
    in_use = World(bridge=Bridge(neighbours=((near, Neighbour(pk.SOURCE_MAC, is_used=True)),)))
    yield heard("nothing new", pk.arp(near, V4.pod), world=in_use)
    yield heard("from off the link", pk.arp(far, V4.pod))
    yield heard("of nobody (a probe)", pk.arp("0.0.0.0", V4.pod))
    yield heard("of the node", pk.arp(near, V4.pod), world=World(hostips=(near,), bridge=Bridge()))
    by_router = World(hostips=(router,), bridge=Bridge(bits=(32, 128), gateways=(router,)))
    yield heard(
        "of the gateway, off the link and the node's",
        pk.arp(router, V4.pod),
        (router, LEARNT),
        world=by_router,
    )
    yield heard("not on a bridge", pk.arp(near, V4.pod), world=World())
    yield heard("third operation", pk.arp(near, V4.pod, operation=3))
    yield heard("MAC of a group", pk.arp(near, V4.pod, mac=b"\x01" + bytes(5)))
    yield heard("MAC of zeroes", pk.arp(near, V4.pod, mac=bytes(6)))
    whole = pk.arp(near, V4.pod)
    for what, at in (("hardware", 15), ("protocol", 16), ("hardware length", 18), ("protocol length", 19)):
        yield heard(f"wrong {what}", whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
    yield heard("cut", whole[:-1])
    no_v4 = World(addr4="", bridge=Bridge())
    yield heard("pod without IPv4", pk.arp(near, "0.0.0.0"), world=no_v4)


def discovery() -> Iterator[Row]:
    def heard(name: str, packet: bytes, *learns: tuple[str, Neighbour], **more: object) -> Row:
        return told(f"ND, {name}", "OTHER_PROTOCOL", packet, *learns, **more)

    near, far, router, pod = NEAR["v6"], V6.peer, ROUTER["v6"], V6.pod
    knows = World(bridge=Bridge(neighbours=((near, Neighbour(NEW_MAC)),)))
    by_router = World(bridge=Bridge(gateways=(router,)))
    yield heard("a neighbour asks", pk.solicitation(near, pod), (near, LEARNT))
    yield heard("a neighbour answers", pk.advertisement(near, pod, near), (near, LEARNT))
    yield heard("asks another", pk.solicitation(near, "fd77::30"))
    yield heard("known, asks another", pk.solicitation(near, "fd77::30"), (near, LEARNT), world=knows)
    to_all = pk.advertisement(near, "ff02::1", near, is_solicited=False)
    yield heard("unknown, tells all", to_all)
    yield heard("known, tells all", to_all, (near, LEARNT), world=knows)
    yield heard("another's question", pk.solicitation("::", pod))
    yield heard("from off the link", pk.solicitation(far, pod))
    yield heard("of the gateway", pk.advertisement(router, pod, router), (router, LEARNT), world=by_router)
    yield heard("the gateway asks", pk.solicitation(router, pod), (router, LEARNT), world=by_router)
    yield heard("other link-local address", pk.advertisement(router, pod, router))
    yield heard("of the node", pk.solicitation(near, pod), world=World(hostips=(near,), bridge=Bridge()))
    set_by_hand = World(bridge=Bridge(neighbours=((near, Neighbour(NEW_MAC, is_permanent=True)),)))
    yield heard("another MAC than was set in the pod", pk.advertisement(near, pod, near), world=set_by_hand)
    yield heard("not on a bridge", pk.solicitation(near, pod), world=World())
    yield heard("MAC of a group", pk.solicitation(near, pod, mac=b"\x33" * 6))
    yield heard("question with an answer's option", pk.solicitation(near, pod, option=2))
    yield heard("answer with a question's option", pk.advertisement(near, pod, near, option=1))
    yield heard("cut", pk.solicitation(near, pod)[:-1])
    no_v6 = World(addr6="", bridge=Bridge())
    yield heard("pod without IPv6", pk.solicitation(near, "::"), world=no_v6)
    question = pk.solicitation(near, pod)
    long = bytearray(question)
    long[-7] = 2
    yield heard("option of another length", bytes(long) + bytes(8))
    later = pk.fragment6(pk.ICMP6, question[54:], offset_bytes=1480)
    yield heard("in a later fragment", pk.framed(pk.ip6(near, pod, pk.FRAGMENT, later)))
    yield heard("bytes of another protocol", pk.ip(near, pod, pk.SCTP, question[54:]))
    router_says = pk.icmp(near, pod, 134, bytes(16) + bytes([1, 1]) + pk.SOURCE_MAC)
    yield heard("another kind of message", router_says)
