"""From the programs' rings to the gates: what a worker takes, what it leaves, and whose it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.net.loop import Loop
from agent.net.syn_ring import SynRing
from agent.proxy.held_rings import BATCH, OLD_NS, HeldRings
from agent.proxy.tallies import Tallies
from agent.wire.held_syn import FROM_POD, TO_POD, HeldSyn
from redirect.rings import Rings
from tests.packets.rig import Rig
from tests.packets.world import HONEST, V4, World
from tests.support import packets as pk
from tests.support.descriptors import open_descriptors

pytestmark = pytest.mark.kernel
FORWARDED = 4242
NEVER_LATE_NS = -3600 * 10**9
"""To send many takes an emulated machine, or a busy one, longer than OLD_NS."""


class Gate:
    """Keeps what arrives; the one for port 666 is a defect, the one for port 667 is let in."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.arrivals: list[tuple[int, HeldSyn]] = []
        self.released: list[int] = []

    def arrived(self, owner: int, syn: HeldSyn) -> bool:
        if syn.local.port == 666:
            raise ZeroDivisionError
        self.arrivals.append((owner, syn))
        return syn.local.port != 667

    def release(self, owner: int) -> None:
        self.released.append(owner)

    @property
    def ports(self) -> list[int]:
        return [syn.peer.port for _, syn in self.arrivals]


class Node:
    """A loop that takes SYNs of the rig, by a clock that a test may turn on."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.crashes: list[BaseException] = []
        self.loop = Loop(time.monotonic, lambda error, fd: self.crashes.append(error))
        self.gates = {FROM_POD: Gate(Direction.OUTBOUND), TO_POD: Gate(Direction.INBOUND)}
        self.tallies = Tallies()
        self.late_ns = NEVER_LATE_NS
        self.held = HeldRings(
            self.loop,
            self.gates,  # type: ignore[arg-type]
            self.tallies,
            lambda: time.monotonic_ns() + self.late_ns,
        )
        self.rings = Rings(os.dup(rig.maps["rings"]), 1)

    def ring(self) -> SynRing:
        return SynRing(os.dup(self.rings.fd(0)))

    def send(self, port: int, to: int = 80, program: str = "from_pod") -> None:
        ends = ((V4.pod, port), (V4.peer, to))
        if program == "to_pod":
            ends = ((V4.peer, port), (V4.pod, to))
        self.rig.exit_of(program, pk.segment(*ends[0], *ends[1]), FORWARDED)

    def turn(self) -> None:
        self.loop.turn(0.0)

    def close(self) -> None:
        self.held.release(0)
        self.rings.close()
        Rings(os.dup(self.rig.maps["rings"]), 0).close()
        self.loop.close()


@contextmanager
def node_of(rig: Rig) -> Iterator[Node]:
    with rig.world(World(flags=HONEST)), closing(Node(rig)) as made:
        yield made


def test_each_syn_comes_once_to_the_gate_of_its_hook_and_counts_for_its_pod(rig: Rig) -> None:
    with node_of(rig) as node:
        node.send(1001)
        node.held.serve(0, node.ring(), {})
        node.send(1002, program="to_pod")
        node.send(1003, to=667)
        node.turn()
        node.turn()
        assert node.gates[FROM_POD].ports == [1001, 1003] and node.gates[TO_POD].ports == [1002]
        assert node.gates[TO_POD].arrivals[0][1].local == SocketAddress.parse(f"{V4.pod}:80")
        (row,) = node.tallies.rows()
        assert row[0] == V4.pod and row[1][:2] == [1, 1], "one that is let in counts when it is accepted"


def test_more_than_a_batch_comes_in_order(rig: Rig) -> None:
    with node_of(rig) as node:
        node.held.serve(0, node.ring(), {})
        for number in range(BATCH + 10):
            node.send(2000 + number)
        for _ in range(3):
            node.turn()
        assert node.gates[FROM_POD].ports == list(range(2000, 2000 + BATCH + 10))
        assert node.rings.is_empty(0)


def test_what_a_worker_finds_after_it_stood_still_is_too_old(rig: Rig) -> None:
    with node_of(rig) as node:
        node.held.serve(0, node.ring(), {})
        node.send(1001)
        node.late_ns = OLD_NS + 1
        node.turn()
        assert not node.gates[FROM_POD].arrivals and node.held.too_old == 1
        node.late_ns = NEVER_LATE_NS
        node.send(1002)
        node.turn()
        assert node.gates[FROM_POD].ports == [1002]


def test_a_defect_with_one_costs_no_other(rig: Rig) -> None:
    with node_of(rig) as node:
        node.held.serve(0, node.ring(), {})
        for port, to in ((1001, 80), (1002, 666), (1003, 80)):
            node.send(port, to)
        node.turn()
        node.send(1004)
        node.turn()
        assert node.gates[FROM_POD].ports == [1001, 1003, 1004]
        assert [type(error) for error in node.crashes] == [ZeroDivisionError]


def test_what_is_released_is_left_to_the_next_reader(rig: Rig) -> None:
    with node_of(rig) as node:
        node.held.serve(0, node.ring(), {})
        node.held.release(0)
        assert node.gates[FROM_POD].released == node.gates[TO_POD].released == [0]
        node.send(1001)
        node.turn()
        assert not node.gates[FROM_POD].arrivals and not node.rings.is_empty(0)
        node.held.serve(0, node.ring(), {})
        node.turn()
        assert node.gates[FROM_POD].ports == [1001]
        # Once more with another ring: the one before is let go.
        before = open_descriptors()
        node.held.serve(0, node.ring(), {})
        assert open_descriptors() == before


def test_another_descriptor_is_no_ring(rig: Rig) -> None:
    before = open_descriptors()
    for fd in (os.dup(rig.maps["pods"]), os.open("/dev/null", os.O_RDONLY)):
        with pytest.raises(ValueError, match="not that of a ring buffer"):
            SynRing(fd)
    assert open_descriptors() == before
