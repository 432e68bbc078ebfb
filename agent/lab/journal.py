"""What a lab made on this machine, on disk, so that all of it can be removed after a crash too.

Each thing is noted before it is made (namespaces) or right after (processes). The directory
/run/ztun-lab/NAME is also the claim on the name: creating it fails when a lab of that name exists.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from agent.lab.blueprint import LabError
from agent.lab.naming import RUN_ROOT
from redirect import netns


class Journal:
    """The notes of one lab."""

    def __init__(self, name: str, root: Path = RUN_ROOT) -> None:
        self.directory = root / name
        self.logs = self.directory / "logs"
        self._places = self.directory / "places.json"
        self._namespaces = self.directory / "namespaces"
        self._processes = self.directory / "processes"

    @property
    def exists(self) -> bool:
        return self.directory.is_dir()

    def claim(self) -> None:
        try:
            self.directory.mkdir(parents=True, mode=0o700)
        except FileExistsError as error:
            name = self.directory.name
            raise LabError(
                f"lab {name} is up already, or an earlier one ended badly: `ztun lab down --name {name}` removes it"
            ) from error
        self.logs.mkdir()

    def note_namespace(self, name: str) -> None:
        with self._namespaces.open("a") as file:
            file.write(name + "\n")

    def namespaces(self) -> list[str]:
        return self._namespaces.read_text().split() if self._namespaces.exists() else []

    def note_process(self, name: str, pid: int, began: int) -> None:
        with self._processes.open("a") as file:
            file.write(json.dumps([name, pid, began]) + "\n")

    def processes(self) -> Iterator[tuple[str, int, int]]:
        """(name, pid, ticks since boot when it began) of every process started; it may have ended since."""
        lines = self._processes.read_text().splitlines() if self._processes.exists() else []
        for line in lines:
            name, pid, began = json.loads(line)
            yield name, pid, began

    def save_places(self, places: dict[str, Any]) -> None:
        self._places.write_text(json.dumps(places, indent=1))

    def places(self) -> dict[str, Any] | None:
        """None when the lab was never finished."""
        if not self._places.exists():
            return None
        loaded: dict[str, Any] = json.loads(self._places.read_text())
        return loaded

    def erase(self) -> None:
        """Removes the notes, and with them what a process that was killed left mounted among them. Raises LabError."""
        below = [each.mountpoint for each in psutil.disk_partitions(all=True)]
        for path in reversed([path for path in map(Path, below) if self.directory in path.parents]):
            netns.call("umount2", bytes(path), netns.MNT_DETACH)  # umount --lazy PATH
        try:
            shutil.rmtree(self.directory)
        except OSError as error:
            raise LabError(f"{self.directory} cannot be removed: {error}; remove it by hand") from error
        if self.directory.parent == RUN_ROOT:
            with suppress(OSError):
                RUN_ROOT.rmdir()  # succeeds only when this was the last lab

    def last_words(self, lines: int = 15) -> str:
        """The ends of all logs: what a person needs when the lab did not come up."""
        parts = []
        for path in sorted(self.logs.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts += [f"--- {path.name}", *tail] if tail else []
        return "\n".join(parts)
