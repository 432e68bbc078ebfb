"""What runs out: room on the disk of the run directory, room in a map, descriptors, memory."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from redirect import sys_bpf
from redirect.maps import Maps
from redirect.pins import Pins
from tests.chaos.fault import Apply, Fault
from tests.chaos.losses import RESETS, Allowed, Reach
from tests.chaos.schedule import Span
from tests.chaos.stage import Stage

HEALS_S = 45.0
GROUPS = Path("/run/ztun-chaos-memory")
MARGIN_BYTES = 1 << 20
NOTHING = Allowed(HEALS_S)
# The limit falls below what is open, so that those which were just accepted find none to dial with.
OUT_OF_DESCRIPTORS = Allowed(HEALS_S, new=RESETS, reach=Reach.NODE)
OF_A_WORKER = Allowed(HEALS_S, live=RESETS, new=RESETS, reach=Reach.NODE)


@contextmanager
def full_disk(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    filler = stage.world.mesh.run_dir(node) / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def full_map(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """Somebody fills `pods` with addresses that are nobody's, while a pod wants to come in."""
    mesh = stage.world.mesh
    with Maps(Pins(mesh.instance(node), mesh.run_dir(node)).generation) as maps:
        fd = maps.fds["pods"]
        info = sys_bpf.map_info(fd)
        for number in range(info.max_entries):
            key = b"\xfd\xee" + number.to_bytes(info.key_size - 2)
            try:
                sys_bpf.map_update(fd, key, bytes(info.value_size))
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                break
    yield


def no_descriptors(whom: str) -> Apply:
    @contextmanager
    def without(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
        control = stage.control(node)
        pids = stage.workers(node) if whom == "workers" else [control.pid] if control is not None else []
        with ExitStack() as limits:
            for pid in pids:
                with suppress(ProcessLookupError):
                    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                    limits.callback(_limit, pid, before)
                    _limit(pid, (_first_free(pid), before[1]))
            yield

    return without


def _limit(pid: int, limits: tuple[int, int]) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def _first_free(pid: int) -> int:
    """The lowest number that no descriptor of a process has."""
    taken = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


@contextmanager
def no_memory(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """A worker in a memory group of its own that has no more room than it needs now."""
    workers = sorted(stage.workers(node))
    if not workers:
        yield
        return
    group = _memory_group()
    pid = chances.choice(workers)
    try:
        (group / "cgroup.procs").write_text(str(pid))
        # What it had is charged to the group that it came from: what is charged here is what it takes from now on.
        (group / "memory.limit_in_bytes").write_text(str(MARGIN_BYTES))
        yield
    finally:
        (group / "memory.limit_in_bytes").write_text("-1")
        for left in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(left)
        with suppress(OSError):  # one that is dying keeps it for a moment; the next one takes it again
            group.rmdir()


def _memory_group() -> Path:
    if not (GROUPS / "cgroup.procs").exists():
        GROUPS.mkdir(exist_ok=True)
        subprocess.run(("mount", "-t", "cgroup", "-o", "memory", "memory", str(GROUPS)), check=True)
    # By the network, as of two runs both may be the first process of theirs.
    group = GROUPS / f"ztun-chaos-{os.stat('/proc/self/ns/net').st_ino}"
    group.mkdir(exist_ok=True)
    return group


FAULTS = {
    "full-disk": Fault("the disk of the run directory is full", Span(1, 8), NOTHING, full_disk),
    "full-map": Fault("a map of the kernel is full of what is nobody's", Span(1, 4), NOTHING, full_map),
    "no-descriptors": Fault(
        "workers have no descriptor left", Span(1, 6), OUT_OF_DESCRIPTORS, no_descriptors("workers")
    ),
    "no-descriptors-control": Fault(
        "the control process has no descriptor left", Span(1, 6), NOTHING, no_descriptors("control")
    ),
    "no-memory": Fault("a worker gets no more memory", Span(1, 6), OF_A_WORKER, no_memory),
}
