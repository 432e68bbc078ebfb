"""The threads of a process as the kernel sees them: /proc/PID/task."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Task:
    """One thread. Capabilities are masks; `netns` is the inode of its network namespace."""

    name: str
    effective: int
    permitted: int
    no_new_privileges: bool
    netns: int


def tasks(pid: int) -> dict[int, Task]:
    """Every thread of a process by its id."""
    found = {}
    for directory in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended between the look and the reading
            found[int(directory.name)] = _task(directory)
    return found


def _task(directory: Path) -> Task:
    lines = (line.partition(":") for line in (directory / "status").read_text().splitlines())
    status = {name: value.strip() for name, _, value in lines}
    return Task(
        status["Name"],
        int(status["CapEff"], 16),
        int(status["CapPrm"], 16),
        status["NoNewPrivs"] == "1",
        (directory / "ns" / "net").stat().st_ino,
    )
