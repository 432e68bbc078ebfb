"""Which systemd unit a process is of: what starts it again when it has ended."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
INIT = "1"
HIERARCHIES = ("0::", "1:name=systemd:")
"""The lines of cgroups(7) that systemd names units in: of version 2, and of 1."""


def unit_of(pid: int, proc: Path = PROC) -> str:
    """The service whose control group it is in, as a child of systemd; empty: of none, or it is gone.

    What somebody started from a shell in a service's group has another parent: no unit starts that again.
    """
    try:
        parent = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1]
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except (OSError, IndexError):
        return ""
    group = next((line for line in lines if line.startswith(HIERARCHIES)), "")
    name = group.rpartition("/")[2]
    return name if parent == INIT and name.endswith(".service") else ""
