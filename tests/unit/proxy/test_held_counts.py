"""What comes of held SYNs counts once for its pod: else the proof that all that is captured arrives would be blind."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent.model.connection import Direction
from agent.proxy import gate as gates
from agent.proxy.gate import Fate, Gate
from agent.proxy.held_rings import HeldRings
from agent.proxy.outbound import OutboundConnection
from agent.wire.held_syn import FROM_POD, RECORD
from tests.support import packets as pk
from tests.support.datapath import stream_pair
from tests.support.frames import IP4_AT, Frames
from tests.support.mesh import at
from tests.support.packets import TCP
from tests.support.two_nodes import CLIENT, SERVER, World


class Ring:
    """In place of the kernel's: records that were put into it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._records: list[bytes] = []

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def put(self, record: bytes) -> None:
        self._records.append(record)
        os.eventfd_write(self._fd, 1)

    def take(self, limit: int) -> list[bytes]:
        taken, self._records = self._records[:limit], self._records[limit:]
        return taken


def record(port: int) -> bytes:
    frame = pk.ip(CLIENT, SERVER, TCP, bytes(pk.tcp(40000, port)))
    return RECORD.pack(time.monotonic_ns(), 1, FROM_POD, IP4_AT, len(frame), frame)


class Listener:
    """In place of the owner's: the test accepts by itself."""

    def take(self, count: int) -> None:
        pass


class Rig:
    def __init__(self, world: World) -> None:
        self.world, self.frames, self.ring = world, Frames(), Ring()
        here = world.here
        self.gate = Gate(
            world.driver.loop,
            Direction.OUTBOUND,
            self.frames,
            lambda *each: OutboundConnection(here.outbound, *each),
            here.arrivals.door(Direction.OUTBOUND, here.outbound.accepted).arrived,
        )
        self.rings = HeldRings(world.driver.loop, {FROM_POD: self.gate}, here.tallies)
        world.driver.call(lambda: self.rings.serve(0, self.ring, {FROM_POD: Listener()}))

    def accepted(self) -> int:
        rows = {ip: row for ip, row, _ in self.world.here.tallies.rows()}
        return rows.get(CLIENT, [0])[0]

    def accept(self) -> socket.socket:
        application, captured = stream_pair(CLIENT)
        captured.setblocking(False)
        peer, local = at(f"{CLIENT}:40000"), at(f"{SERVER}:8080")
        self.world.driver.call(lambda: self.gate.accepted(captured, peer, local))
        return application


@pytest.fixture
def rig(world: World) -> Iterator[Rig]:
    made = Rig(world)
    yield made
    world.driver.call(lambda: made.rings.release(0))


def test_one_that_joins_counts_once(rig: Rig) -> None:
    rig.ring.put(record(8080))
    rig.world.driver.until(lambda: bool(rig.frames.sent))
    assert rig.accepted() == 1, "while it waits it counts already: the kernel has handed it over"
    with closing(rig.accept()):
        rig.world.driver.until(lambda: rig.gate.fates[Fate.JOINED] == 1)
        assert rig.accepted() == 1


def test_one_that_is_refused_counts_once(rig: Rig) -> None:
    rig.ring.put(record(8081))
    rig.world.driver.until(lambda: rig.gate.fates[Fate.REFUSED] == 1)
    assert rig.accepted() == 1


def test_one_that_is_let_in_at_once_counts_when_it_is_accepted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "HELD_LIMIT", 0)
    rig.ring.put(record(8080))
    rig.world.driver.until(lambda: rig.gate.fates[Fate.TOO_MANY] == 1)
    assert rig.accepted() == 0
    with closing(rig.accept()):
        assert rig.accepted() == 1
