"""Processes with clocks that can be set: a library beneath them, as no namespace has a clock of its own.

libfaketime would do more than that, and less: waits until a time of the monotonic clock, as Python's sleep, fail
beneath it (EINVAL; Debian's 0.9.10).
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.lab.agents import LabMesh
from agent.lab.topology import NodePlace

SOURCE = Path(__file__).with_name("wall_clock.c")
_SECONDS = struct.Struct("=q")


class Clock:
    """One for the agents of a node, those that will be started too. It lives in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.set_ahead(0)

    def set_ahead(self, seconds: int) -> None:
        """Of the machine's; negative: behind. At once, in every process."""
        with self.path.open("r+b") as file:
            file.write(_SECONDS.pack(seconds))


def built(directory: Path) -> Path:
    """The library. Raises CalledProcessError, FileNotFoundError without a C compiler."""
    library = directory / "wall_clock.so"
    subprocess.run(("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)), check=True)
    return library


def beneath(library: Path, clock: Clock) -> dict[str, str]:
    """The variables of a process that has this clock."""
    return {"LD_PRELOAD": str(library), "TEST_CLOCK": str(clock.path)}


@contextmanager
def clock_of_children(directory: Path) -> Iterator[Clock]:
    """Of what this process starts meanwhile, and what that starts."""
    clock = Clock(directory / "clock")
    directory.chmod(0o755)  # workers are not root
    before = os.environ.copy()
    os.environ.update(beneath(built(directory), clock))
    try:
        yield clock
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass
class ClockedMesh(LabMesh):
    """`clocks` by node, above `library`."""

    clocks: Mapping[str, Clock] = field(default_factory=dict)
    library: Path = Path()

    def start_agent(self, node: NodePlace) -> subprocess.Popen[bytes]:
        ztun, variables = self.ztun, beneath(self.library, self.clocks[node.name])
        self.ztun = ("env", *(f"{name}={value}" for name, value in variables.items()), *ztun)
        try:
            return super().start_agent(node)
        finally:
            self.ztun = ztun
