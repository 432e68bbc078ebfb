"""Guards behind the programs on real devices: what was passed on passes, and without the program nothing does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from redirect import features, rt_writes
from redirect.filters import PARENTS, PRIORITY
from redirect.guards import BEHIND, HANDLES
from tests.packets.rig import POD_DEVICE, POD_PEER, Rig
from tests.packets.test_delivery import LIMIT_S, attached, tap
from tests.packets.world import FORWARDED, GUARDED, V4, World
from tests.support import packets as pk

pytestmark = pytest.mark.kernel


@contextmanager
def guarded(rig: Rig, guard: str) -> Iterator[None]:
    if not features.has_tcx():
        pytest.skip("this kernel has no tcx (Linux 6.6), and needs no guards")
    rt_writes.add_clsact(rig.ifindex)
    try:
        fd = rig.programs[guard]
        rt_writes.put_filter(rig.ifindex, PARENTS[BEHIND[guard]], PRIORITY, HANDLES[0], fd, guard)
        yield
    finally:
        rt_writes.delete_clsact(rig.ifindex)


def sender(rig: Rig, guard: str) -> tuple[Path, str]:
    return (rig.pod_path, POD_PEER) if guard == "guard_from_pod" else (rig.paths["host"], POD_DEVICE)


def until_counted(rig: Rig, name: str, before: dict[str, int]) -> None:
    """Stacks at both ends say things of their own meanwhile (IPv6), which may be counted too."""
    end = time.monotonic() + LIMIT_S
    while rig.counters()[name] == before[name]:
        assert time.monotonic() < end, f"{name} did not move"


@pytest.mark.parametrize("guard", BEHIND)
def test_a_guard_lets_by_what_was_passed_on_and_drops_what_nobody_has_seen(rig: Rig, guard: str) -> None:
    ends = (V4.pod, 40000), (V4.peer, 4000)
    source, destination = ends if guard == "guard_from_pod" else ends[::-1]
    frame = pk.datagram(*source, *destination)
    with ExitStack() as closing:
        closing.enter_context(rig.world(World(flags=GUARDED)))
        closing.enter_context(guarded(rig, guard))
        sock = closing.enter_context(tap(*sender(rig, guard)))
        with attached(rig, "tcx", BEHIND[guard], rig.ifindex):
            for _ in range(2):
                before = rig.counters()
                sock.send(frame)
                until_counted(rig, f"{guard}/SEEN", before)
                assert rig.counters()[f"{guard}/UNSEEN"] == before[f"{guard}/UNSEEN"]
        before = rig.counters()
        with suppress(OSError):  # whoever sends by a device is told that it was dropped there
            sock.send(frame)
        until_counted(rig, f"{guard}/UNSEEN", before)
        assert rig.counters()[f"{guard}/SEEN"] == before[f"{guard}/SEEN"]


def test_a_note_is_of_one_packet_at_one_hook(rig: Rig) -> None:
    """A program that passes one on says nothing of the next, though it may lie where that one did."""
    packet = pk.datagram(V4.peer, 4000, V4.pod, 40000)
    with rig.world(World(flags=GUARDED)):
        for _ in range(20):
            assert rig.play("to_pod", packet, ingress_ifindex=FORWARDED).counted == {"to_pod/UDP_PASS": 1}
            assert rig.play("guard_from_pod", packet).counted == {"guard_from_pod/UNSEEN": 1}
