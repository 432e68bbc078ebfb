"""Processes in control groups as the kubelet makes them, for pods that are no more than a network namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redirect.netns import entered

ROOT = Path("/sys/fs/cgroup")
ROOT_GROUP = 1
CONTAINER = "c0ffee" * 10 + "beef"


def hierarchy() -> Path:
    """Where groups of version 2 are."""
    return ROOT / "unified" if (ROOT / "unified").is_dir() else ROOT


@contextmanager
def process_of(uid: str, netns: Path, root: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of pod `uid` in a network namespace; `root`: a group of this test alone."""
    group = hierarchy() / root / "kubepods" / "besteffort" / f"pod{uid}" / CONTAINER
    group.mkdir(parents=True)
    with entered(netns):
        process = subprocess.Popen(["sleep", "3600"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        yield process
    finally:
        process.kill()
        process.wait()
        for path in (group, *group.parents):
            if path == hierarchy():
                break
            try:
                path.rmdir()
            except OSError:
                break  # other pods of the test


def own_group() -> int:
    """The number of this process's group of version 2, as bpf_skb_cgroup_id() tells it; the root's if it has none."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return (hierarchy() / path.strip("/")).stat().st_ino if path != "/" else ROOT_GROUP


def own_name() -> str:
    """Of groups that this test makes: hierarchies are the machine's, PIDs may be those of a world of its own."""
    return f"ztun-test-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getpid()}"


@contextmanager
def container(*pids: int) -> Iterator[Path]:
    """Processes in a control group of their own, in the first hierarchy there is."""
    group = hierarchy() / own_name()
    group.mkdir()
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (hierarchy() / "cgroup.procs").write_text(pid)
        group.rmdir()


class MemoryGroup:
    """A control group of version 1 that counts memory. What a process has before it joins is not counted in it."""

    def __init__(self, root: Path) -> None:
        self._root, self._group = root, root / own_name()
        self._group.mkdir()
        self._limit = self._group / "memory.limit_in_bytes"

    def join(self, pid: int) -> None:
        """With all that it starts from now on."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def leave(self, pid: int) -> None:
        (self._root / "cgroup.procs").write_text(str(pid))

    def tighten(self) -> None:
        """No more than what is used, once the kernel has taken back all that it can."""
        size_bytes = int((self._group / "memory.usage_in_bytes").read_text())
        with suppress(OSError):  # EBUSY: it is used
            while size_bytes > 0:
                self._limit.write_text(str(size_bytes))
                size_bytes -= 1 << 18

    @property
    def killed(self) -> int:
        """How many processes the kernel has ended for it."""
        lines = (self._group / "memory.oom_control").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def free(self) -> None:
        """Without a limit again."""
        self._limit.write_text("-1")

    def close(self) -> None:
        for pid in (self._group / "cgroup.procs").read_text().split():
            self.leave(int(pid))
        self._group.rmdir()


def counts_memory() -> bool:
    """Whether version 1 does."""
    rows = (line.split() for line in Path("/proc/cgroups").read_text().splitlines())
    return any(row[0] == "memory" and row[1] != "0" for row in rows)


@contextmanager
def memory_group(directory: Path) -> Iterator[MemoryGroup]:
    """Its hierarchy is mounted at an empty directory meanwhile."""
    subprocess.run(("mount", "-t", "cgroup", "-o", "memory", "none", str(directory)), check=True)
    try:
        group = MemoryGroup(directory)
        try:
            yield group
        finally:
            group.close()
    finally:
        subprocess.run(("umount", str(directory)), check=True)
