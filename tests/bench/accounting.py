"""What a set of processes has cost so far, read from /proc: CPU time with all threads, and memory.

CPU is utime + stime of /proc/PID/stat (10 ms steps; the kernel scales the sum to the time the scheduler
measured). Memory is PSS: shared pages count once, divided among those who map them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int], proc: Path = Path("/proc")) -> float:
    """CPU seconds of the processes since they started. FileNotFoundError when one of them is gone."""
    return sum(_ticks((proc / str(pid) / "stat").read_text()) for pid in pids) / TICKS_PER_S


def _ticks(stat: str) -> int:
    # The command is in parentheses and may hold spaces: count fields from behind it.
    fields = stat[stat.rindex(")") + 2 :].split()
    return int(fields[11]) + int(fields[12])


def sleeps(pids: Iterable[int], proc: Path = Path("/proc")) -> int:
    """How often the processes have waited for something so far, with all threads: each wait is a wake-up."""
    found = 0
    for pid in pids:
        for task in (proc / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
                found += _voluntary((task / "status").read_text())
    return found


def _voluntary(status: str) -> int:
    for line in status.splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise ValueError("status has no line `voluntary_ctxt_switches:`")


def children(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The processes that have this one as their parent, or as their parent's, and so on."""
    parents = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def pss_bytes(pids: Iterable[int], proc: Path = Path("/proc")) -> int:
    """Proportional set size of the processes together."""
    return sum(_pss_kib((proc / str(pid) / "smaps_rollup").read_text()) for pid in pids) * 1024


def _pss_kib(rollup: str) -> int:
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ValueError("smaps_rollup has no line `Pss:`")


def pin(pids: Iterable[int], cpu: int) -> None:
    """Every thread of the processes onto one core; threads made later inherit it."""
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):  # a thread that has ended since
                os.sched_setaffinity(int(task), {cpu})
