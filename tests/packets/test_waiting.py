"""SYNs that end because nobody serves are noted, so that whoever does next can let them in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.latecomers import LATEST_S, fresh, is_asked_first
from agent.model.address import parse_ip
from agent.model.listener import DNS
from agent.wire import held_syn
from redirect import waiting
from redirect.layout import Flag, FlowKey
from redirect.prefilter import HBONE_PORT
from tests.packets.rig import Rig
from tests.packets.world import BYPASS, DRAIN, FAMILIES, FORWARDED, HONEST, PLAIN, Family, World
from tests.support import packets as pk
from tests.support.packets import ACK, FIN, SYN, TCP

pytestmark = pytest.mark.kernel
NOBODY = World(slots=frozenset())
HOOKS = ("from_pod", "to_pod")
OPTIONS = bytes.fromhex("020405b40402080a000000000000000001030307")


def ends(
    program: str, net: Family, port: int = 40005, dport: int = 80
) -> tuple[tuple[str, int], tuple[str, int]]:
    """Who opens the connection, and to where."""
    if program == "from_pod":
        return (net.pod, port), (net.peer, dport)
    return (net.peer, port), (net.pod, dport)


def sent(
    program: str, net: Family, port: int = 40005, flags: int = SYN, sequence: int = 1, dport: int = 80
) -> bytes:
    (source, sport), (destination, dport) = ends(program, net, port, dport)
    header = pk.tcp(sport, dport, flags=flags, options=OPTIONS)
    return pk.ip(source, destination, TCP, header[:4] + sequence.to_bytes(4, "big") + header[8:])


def noted(rig: Rig) -> list[waiting.Waiting]:
    return list(waiting.look(rig.maps["waiting"]))


@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
@pytest.mark.parametrize("program", HOOKS)
def test_the_newest_syn_of_a_connection_is_noted_and_taken_once(rig: Rig, program: str, net: Family) -> None:
    with rig.world(NOBODY):
        began_ns = time.monotonic_ns()
        for sequence in (7, 8):
            played = rig.play(program, sent(program, net, sequence=sequence), ingress_ifindex=FORWARDED)
            assert f"{program}/NO_LISTENER" in played.counted
        rig.play(program, sent(program, net, 40006), ingress_ifindex=FORWARDED)
        (source, sport), (destination, dport) = ends(program, net)
        for each in noted(rig):
            flow = FlowKey.decode(each.flow)
            assert (flow.source, flow.destination, flow.dport) == (
                parse_ip(source),
                parse_ip(destination),
                dport,
            )
            assert (each.ifindex, HOOKS[flow.hook]) == (rig.ifindex, program)
            assert began_ns <= each.at_ns <= time.monotonic_ns()
        syns = fresh(waiting.take(os.dup(rig.maps["waiting"])), time.monotonic_ns())
        assert [(syn.peer.port, syn.sequence, HOOKS[syn.hook]) for syn in syns] == [
            (sport, 8, program),
            (40006, 1, program),
        ]
        assert syns[0].headers == sent(program, net, sequence=8)[: len(syns[0].headers)]
        assert not noted(rig)


@pytest.mark.parametrize("program", HOOKS)
def test_nothing_else_is_noted(rig: Rig, program: str) -> None:
    net = FAMILIES[0]
    for flags, world in (
        (SYN, World()),
        (SYN, World(flags=PLAIN, slots=frozenset())),
        (SYN, World(flags=DRAIN, slots=frozenset())),
        (SYN, World(opening="pod", slots=frozenset())),
        (SYN | FIN, NOBODY),
        (ACK, NOBODY),
    ):
        with rig.world(world):
            rig.play(program, sent(program, net, flags=flags), ingress_ifindex=FORWARDED)
            assert not noted(rig), (flags, world)


def test_a_pod_whose_connects_are_honest_waits_as_others_do(rig: Rig) -> None:
    with rig.world(NOBODY.but(flags=HONEST, has_ring=True)):
        assert not rig.play("from_pod", sent("from_pod", FAMILIES[0])).held
        assert len(noted(rig)) == 1


@pytest.mark.parametrize("net", FAMILIES, ids=lambda net: net.name)
@pytest.mark.parametrize("program", HOOKS)
def test_what_the_programs_would_hold_is_asked_first(rig: Rig, program: str, net: Family) -> None:
    for flags in (HONEST, HONEST | Flag.DNS, PLAIN | Flag.ENROLLED):
        for dport in (80, DNS.port, HBONE_PORT):
            packet = sent(program, net, dport=dport)
            with rig.world(NOBODY.but(flags=flags, has_ring=True)):
                rig.play(program, packet, ingress_ifindex=FORWARDED)
                (syn,) = fresh(waiting.take(os.dup(rig.maps["waiting"])), time.monotonic_ns())
            with rig.world(World(flags=flags, has_ring=True)):
                is_held = bool(rig.play(program, packet, ingress_ifindex=FORWARDED).held)
            assert is_asked_first(syn, {parse_ip(net.pod): flags}) == is_held, (flags, dport)
            assert not is_asked_first(syn, {}), "nobody has a ring"


def test_what_goes_past_the_proxy_is_not_noted(rig: Rig) -> None:
    with rig.world(NOBODY.but(flags=BYPASS)):
        rig.play("to_pod", sent("to_pod", FAMILIES[0]), ingress_ifindex=FORWARDED)
        assert not noted(rig)


@contextmanager
def on_one_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def test_of_too_many_the_newest_are_kept(rig: Rig) -> None:
    # What a CPU has set aside for itself stays there, however old, when the test goes on on another one.
    with on_one_cpu(), rig.world(NOBODY):
        for port in range(10_000, 10_000 + 3 * waiting.MOST):
            rig.run("from_pod", sent("from_pod", FAMILIES[0], port))
        ports = {FlowKey.decode(each.flow).sport for each in noted(rig)}
        assert 0 < len(ports) <= waiting.MOST and min(ports) >= 10_000 + waiting.MOST


def test_whose_client_has_given_up_is_not_let_in(rig: Rig) -> None:
    with rig.world(NOBODY):
        rig.run("from_pod", sent("from_pod", FAMILIES[0]))
        (record,) = waiting.take(os.dup(rig.maps["waiting"]))
    at_ns = held_syn.read(record).at_ns
    assert len(fresh([record], at_ns + int((LATEST_S - 1) * 1e9))) == 1
    assert not fresh([record], at_ns + int((LATEST_S + 1) * 1e9))
    assert not fresh([record[:100]], at_ns)
