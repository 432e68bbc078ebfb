"""Processes that outlive a container: its end kills whoever is in its control groups, so they leave them before.

They go where there is room on every node, into the root of each hierarchy as init sees it, where no limit holds: so
whoever has them next takes them into groups of its own. Processes that were never in a container stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from redirect import lifetime, netns

CLONE_NEWCGROUP = 0x02000000
CONTROLLED, UNIFIED = "cgroup", "cgroup2"
PROCESSES = "cgroup.procs"
OWN = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One tree of control groups. `names`: of its controllers, its own (`name=systemd`), and options of the mount."""

    root: Path
    names: frozenset[str]
    is_unified: bool

    def has(self, names: frozenset[str]) -> bool:
        """Whether a line of /proc/PID/cgroup with these names is about this one."""
        return self.is_unified if not names else not self.is_unified and names <= self.names


Groups = dict[frozenset[str], str]
"""The group of a process in each hierarchy, by the names that /proc/PID/cgroup has for that."""


def onlooker() -> Path:
    """The /proc directory of a process that sees what lasts: init, and this one where it sees the same."""
    return OWN if lifetime.look().are_inits else lifetime.INIT


def leave(pids: Collection[int], init: Path | None = None) -> None:
    """Move processes out of the groups of this container. Raises OSError."""
    there = init or onlooker()
    groups = dict.fromkeys(groups_of("self"), "/")
    _as_init(there, lambda: _move(pids, groups, there))


def join(pids: Iterable[int]) -> list[int]:
    """Take those of the processes that left a container into the groups of this one; who they are. Raises OSError."""
    moved: list[int] = []
    init = onlooker()

    def in_sight_of_init() -> None:
        own = groups_of("thread-self")
        for pid in pids:
            theirs = groups_of(str(pid))
            if theirs != own and set(theirs.values()) == {"/"}:
                _move([pid], own, init)
                moved.append(pid)

    _as_init(init, in_sight_of_init)
    return moved


def _as_init(init: Path, work: Callable[[], None]) -> None:
    """In a thread that is in init's namespace of control groups, whatever this container has.

    Paths are init's there, and a process may be moved: where cgroup2 is mounted with `nsdelegate`, as systemd does,
    nobody in a container's own namespace moves one over its edge (ENOENT; cgroup-v2.rst, "Delegation Containment").
    """

    def entered() -> None:
        if init != OWN:
            with open(init / "ns/cgroup", "rb") as home:
                netns.call("setns", home.fileno(), CLONE_NEWCGROUP)
        work()

    netns.apart(entered)


def hierarchies(init: Path) -> list[Hierarchy]:
    """Those that init has mounted, and nothing else over them. Raises OSError."""
    lines = (init / "mountinfo").read_text().splitlines()
    return [each for each in _mounted(lines, init / "root") if (each.root / PROCESSES).exists()]


def _mounted(lines: Iterable[str], root: Path) -> Iterator[Hierarchy]:
    for line in lines:
        [mount] = lifetime.parse([line])
        if mount.kind in (CONTROLLED, UNIFIED) and mount.root == "/":
            options = frozenset(line.rpartition(" ")[2].split(","))
            yield Hierarchy(root / mount.point.lstrip("/"), options, mount.kind == UNIFIED)


def groups_of(process: str) -> Groups:
    """Raises OSError; of a process that has ended, too."""
    lines = (line.split(":", 2) for line in Path("/proc", process, "cgroup").read_text().splitlines())
    return {frozenset(names.split(",") if names else ()): path for _, names, path in lines}


def _move(pids: Collection[int], groups: Groups, init: Path) -> None:
    mounted = hierarchies(init)
    if not mounted:
        raise FileNotFoundError(f"no control groups are mounted where init sees them ({init / 'mountinfo'})")
    for names, path in groups.items():
        # A container is found by a hierarchy that is mounted: others do not matter.
        for hierarchy in (each for each in mounted if each.has(names)):
            for pid in pids:
                _write(hierarchy.root / path.lstrip("/") / PROCESSES, pid)


def _write(file: Path, pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
