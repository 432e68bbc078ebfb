"""Takes held SYNs out of the rings of the owners that this worker serves, and brings each to its gate.

A ring comes with the listeners of its owner and goes with them: a worker that cannot accept a connection must not
answer for it, and one that was told nothing of the mesh yet has neither.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from agent.model.connection import Direction
from agent.net.loop import Loop
from agent.proxy.gate import Accepts, Fate, Gate
from agent.proxy.tallies import Tallies
from agent.telemetry import families
from agent.telemetry.metrics import Sample
from agent.wire.held_syn import FROM_POD, TO_POD, HeldSyn, read

log = logging.getLogger(__name__)

BATCH = 64
OLD_NS = 10**9
"""A client has sent its SYN again by then: what a worker finds that stood still so long is not worth a dial."""


class Ring(Protocol):
    """What `net.syn_ring` reads; readable while records wait."""

    def fileno(self) -> int: ...

    def take(self, limit: int) -> list[bytes]:
        """The oldest records, and no more than that many."""

    def close(self) -> None: ...


class HeldRings:
    """One per worker. `gates` by hook."""

    def __init__(
        self,
        loop: Loop,
        gates: Mapping[int, Gate],
        tallies: Tallies,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._loop = loop
        self._gates = gates
        self._tallies = tallies
        self._clock_ns = clock_ns
        self._rings: dict[int, Ring] = {}
        self.too_old = 0

    def gate(self, direction: Direction) -> Gate:
        return self._gates[FROM_POD if direction is Direction.OUTBOUND else TO_POD]

    def serve(self, owner: int, ring: Ring, listeners: Mapping[int, Accepts]) -> None:
        """Take what comes in this ring, which is this object's, in place of the owner's former one.

        `listeners` of the owner, by hook: there is accepted what is let in.
        """
        self._close(owner)
        for hook, listener in listeners.items():
            self._gates[hook].serve(owner, listener)
        self._rings[owner] = ring
        self._loop.watch(ring.fileno(), partial(self._on_ready, owner), mask=select.EPOLLIN)

    def release(self, owner: int) -> None:
        """Take no more of this owner, and answer nothing that waits."""
        self._close(owner)
        for gate in self._gates.values():
            gate.release(owner)

    def samples(self) -> Iterable[Sample]:
        for gate in self._gates.values():
            yield from samples_of(gate.direction, len(gate), gate.fates)
        yield families.SYNS_TOO_OLD, (), self.too_old

    def _on_ready(self, owner: int, mask: int) -> None:
        ring = self._rings.get(owner)
        if ring is None:
            return
        oldest_ns = self._clock_ns() - OLD_NS
        for record in ring.take(BATCH):
            try:
                syn = read(record)
            except ValueError as error:
                log.error("a held SYN cannot be read, and is dropped: %s", error)
                continue
            if syn.at_ns < oldest_ns:
                self.too_old += 1
            else:
                # By itself, so that a defect with one costs neither the others nor the watch.
                self._loop.soon(partial(self._bring, owner, syn))

    def _bring(self, owner: int, syn: HeldSyn) -> None:
        gate = self._gates[syn.hook]
        # For the proof that what the kernel hands over arrives: also where nothing will be accepted.
        if gate.arrived(owner, syn):
            self._tallies.of(syn.pod).count_accepted(gate.direction)

    def _close(self, owner: int) -> None:
        ring = self._rings.pop(owner, None)
        if ring is not None:
            self._loop.forget(ring.fileno())
            ring.close()


def samples_of(direction: Direction, waiting: int, fates: Mapping[Fate, int]) -> Iterable[Sample]:
    label = direction.name.lower()
    yield families.SYNS_HELD, (label,), waiting
    for fate in Fate:
        yield families.SYNS, (label, fate.value), fates.get(fate, 0)


def nothing_held() -> Iterable[Sample]:
    """The figures of a worker whose agent holds no SYNs."""
    for direction in Direction:
        yield from samples_of(direction, 0, {})
    yield families.SYNS_TOO_OLD, (), 0
