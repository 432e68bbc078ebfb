"""What the programs tell whoever traces: each packet by the exit it left by, and nothing after the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import redirect
from agent.net.syn_ring import SynRing
from redirect import tracing
from redirect.errors import InstanceInUse
from redirect.layout import GUARDS, REASONS, address_key, parse_ip
from redirect.maps import Maps
from redirect.opening import now_ns
from redirect.trace_entries import NOBODYS_ADDRESS, TraceEvent, TraceFilter
from redirect.tracing import LAST_NS, RING_BYTES, Tracer
from tests.packets.rig import Rig
from tests.packets.test_lookups import LOOKUPS, look_up
from tests.packets.test_programs import ROWS
from tests.packets.world import FORWARDED, SHOT, V4, V6, Family, World
from tests.support.packets import ACK, SYN, TCP, segment

pytestmark = pytest.mark.kernel

UNREAD = {
    ("from_pod", "PROXY"),
    ("from_pod", "UNKNOWN_IFACE"),
    ("to_pod", "UNKNOWN_IFACE"),
    ("to_pod", "FROM_PROXY"),
    *((guard, "UNGUARDED") for guard in GUARDS),
}
"""Exits before anything is read: another program tells of the same packet, or it is of no pod."""
HELD = ("SYN_HELD",)
ETH_P_802_2 = 4
EVERYTHING = TraceFilter()
BURST = 4096
HOLDER = """
import sys, time
from pathlib import Path
from redirect.maps import Maps
from redirect.trace_entries import TraceFilter
from redirect.tracing import Tracer
directory = Path(sys.argv[1])
tracer = Tracer(Maps(directory), directory, TraceFilter())
print(flush=True)
while True:
    time.sleep(0.2)
    tracer.keep()
"""


class Told:
    """What came into the ring of a tracer."""

    def __init__(self, tracer: Tracer, ring: SynRing) -> None:
        self.tracer, self._ring = tracer, ring

    def take(self) -> list[TraceEvent]:
        return [TraceEvent.decode(record) for record in self._ring.take(RING_BYTES)]


@contextmanager
def traced(rig: Rig, wanted: TraceFilter = EVERYTHING) -> Iterator[Told]:
    with (
        Maps(rig.pins) as maps,
        closing(Tracer(maps, rig.pins, wanted)) as tracer,
        closing(SynRing(os.dup(tracer.ring_fd))) as ring,
    ):
        yield Told(tracer, ring)


def exit_of(event: TraceEvent) -> tuple[str, str]:
    reason = REASONS[event.reason]
    return reason.program, reason.name


def key(text: str) -> bytes:
    return address_key(parse_ip(text))


def test_each_exit_is_told_with_the_packet_as_it_came_and_changes_nothing(rig: Rig) -> None:
    rows = {(row.program, row.exit): row for row in ROWS}
    with traced(rig) as told:
        for exit_, row in rows.items():
            began_ns = now_ns()
            with rig.world(row.world):
                seen = rig.play(row.program, row.packet, row.mark, row.ingress_ifindex, row.gso_size_bytes)
            assert seen.verdict == row.verdict
            events = told.take()
            assert [exit_of(event) for event in events] == ([] if exit_ in UNREAD else [exit_]), row.id
            for event in events:
                assert (event.ifindex, event.frame_bytes) == (rig.ifindex, len(row.packet))
                # A length in place of a type (802.3) is told as the kernel calls that.
                assert event.ethertype in (int.from_bytes(row.packet[12:14], "big"), ETH_P_802_2)
                assert began_ns <= event.at_ns <= now_ns()
            told.tracer.keep()
        assert told.tracer.lost == 0


@pytest.mark.parametrize("net", (V4, V6), ids=lambda net: net.name)
def test_ends_and_flags_are_those_of_the_packet(rig: Rig, net: Family) -> None:
    packet = segment(net.pod, 40000, net.peer, 80)
    with traced(rig) as told, rig.world(World()):
        rig.play("from_pod", packet)
        (event,) = told.take()
    assert exit_of(event) == ("from_pod", "SYN_TO_PROXY")
    assert (event.source, event.destination) == (key(net.pod), key(net.peer))
    assert (event.sport, event.dport, event.protocol, event.tcp_flags) == (40000, 80, TCP, 2)


def test_lookups_are_told_with_the_far_end_as_source(rig: Rig) -> None:
    with traced(rig) as told:
        for look in LOOKUPS:
            for net in (V4, V6):
                with rig.world(World(slots=look.slots)):
                    look_up(rig, look, net)
                (event,) = told.take()
                assert exit_of(event) == (look.program, look.exit)
                assert (event.source, event.destination) == (key(net.peer), key(net.pod))
                assert (event.sport, event.dport, event.protocol) == (40004, look.port, look.protocol)
                assert (event.ifindex, event.frame_bytes) == (0, 0)


OUT = segment(V4.pod, 40000, V4.peer, 80)
BACK = segment(V4.peer, 80, V4.pod, 40000, SYN | ACK)


@pytest.mark.parametrize(
    ("wanted", "is_told"),
    [
        (TraceFilter(own=key(V4.pod), own_too=key(V6.pod)), True),
        (TraceFilter(own=key(V6.pod), own_too=key(V4.pod)), True),
        (TraceFilter(own=key(V4.peer), own_too=key(V4.peer)), True),
        (TraceFilter(own=key(V6.pod), own_too=key(V6.pod)), False),
        (TraceFilter(own_port=80), True),
        (TraceFilter(own_port=81), False),
        (TraceFilter(own_port=80, far_port=40000), True),
        (TraceFilter(own_port=80, far_port=80), False),
        (TraceFilter(own=key(V4.pod), own_too=key(V4.pod), own_port=80), False),
        (
            TraceFilter(own=key(V4.pod), own_too=key(V4.pod), own_port=40000, far=key(V4.peer), far_port=80),
            True,
        ),
        (TraceFilter(own=key(V4.pod), own_too=key(V4.pod), far=key(V4.pod)), False),
        (TraceFilter(own=NOBODYS_ADDRESS, own_too=NOBODYS_ADDRESS), False),
    ],
    ids=lambda value: "" if isinstance(value, TraceFilter) else str(value),
)
def test_a_filter_holds_in_both_directions(rig: Rig, wanted: TraceFilter, is_told: bool) -> None:
    with traced(rig, wanted) as told, rig.world(World()):
        # Its two seconds may be over on an emulated machine: 6.1 has shown it.
        told.tracer.keep()
        rig.play("from_pod", OUT)
        rig.play("to_pod", BACK, ingress_ifindex=FORWARDED)
        assert len(told.take()) == 2 * is_told


def test_all_that_crosses_an_interface_is_told_also_without_an_address(rig: Rig) -> None:
    rows = {(row.program, row.exit): row for row in ROWS}
    with traced(rig, TraceFilter(own=NOBODYS_ADDRESS, own_too=NOBODYS_ADDRESS, ifindex=rig.ifindex)) as told:
        for exit_ in (("from_pod", "ARP"), ("from_pod", "UNCLASSIFIABLE"), ("from_pod", "SPOOFED")):
            row = rows[exit_]
            with rig.world(row.world):
                rig.play(row.program, row.packet)
            assert [exit_of(event) for event in told.take()] == [exit_]


def test_ends_only_are_drops_and_what_policy_denies(rig: Rig) -> None:
    rows = {(row.program, row.exit): row for row in ROWS}
    with traced(rig, TraceFilter(is_ends_only=True)) as told:
        for exit_, row in rows.items():
            with rig.world(row.world):
                rig.play(row.program, row.packet, row.mark, row.ingress_ifindex, row.gso_size_bytes)
            ends = (row.verdict == SHOT and row.exit not in HELD) or row.exit == "DENIED"
            assert [exit_of(event) for event in told.take()] == [exit_] * ends, row.id
            told.tracer.keep()


def test_nothing_is_told_after_the_end_nor_before_a_beginning(rig: Rig) -> None:
    with traced(rig) as told, rig.world(World()):
        rig.play("from_pod", OUT)
        told.tracer.stop()
        rig.play("from_pod", OUT)
        assert len(told.take()) == 1
        assert told.tracer.keep() == 0.0
        rig.play("from_pod", OUT)
        assert len(told.take()) == 1
    with Maps(rig.pins) as maps:
        assert maps.trace_filter().until_ns == 0 and maps.trace_ring() == 0


def test_what_comes_too_fast_is_counted_and_not_told(rig: Rig) -> None:
    count = BURST + 2000
    with traced(rig) as told, rig.world(World()):
        for _ in range(count):
            rig.run("from_pod", OUT)
        events = told.take()
        assert len(events) + told.tracer.lost == count
        assert len(events) >= BURST


def test_a_ring_that_nobody_reads_fills_and_the_rest_is_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "RING_BYTES", 4096)
    with traced(rig) as told, rig.world(World()):
        for _ in range(100):
            rig.run("from_pod", OUT)
        events = told.take()
        assert 0 < len(events) <= 4096 // 72 and len(events) + told.tracer.lost == 100


def test_one_at_a_time_and_one_that_is_killed_ends_in_the_kernel(rig: Rig) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(rig.pins)],
        cwd=Path(redirect.__file__).parents[1],
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline()
            with pytest.raises(InstanceInUse, match=f"process {holder.pid} traces here already"), traced(rig):
                pass
            with Maps(rig.pins) as maps:
                assert now_ns() < maps.trace_filter().until_ns <= now_ns() + LAST_NS
                holder.send_signal(signal.SIGKILL)
                holder.wait()
                until_ns = maps.trace_filter().until_ns
                while now_ns() <= until_ns:
                    pass
                # It is over for the programs: nothing is told, nor counted as lost.
                with rig.world(World()):
                    rig.run("from_pod", OUT)
                assert maps.trace_filter().lost == 0 and maps.trace_ring() != 0
        finally:
            holder.kill()
    with traced(rig) as told, rig.world(World()):
        rig.play("from_pod", OUT)
        assert len(told.take()) == 1
