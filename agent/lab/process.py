"""Processes inside the lab's namespaces: start, wait until ready, end all of them.

Every process is noted with the time since boot at which it began, so that a pid used again is never signalled, and
none is forgotten when the clock is set. Ending a lab also
ends what lives in its namespaces without having been started here (workers that outlived their control
process).
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from agent.lab.blueprint import LabError
from agent.lab.journal import Journal
from redirect.netns import entered

READY = b"ready"
POLL_S = 0.01
_BEGAN_FIELD = 19
"""Field 22 of /proc/PID/stat, counted from the third: the second may hold blanks."""


class Processes:
    """Starts and ends the processes of one lab."""

    def __init__(self, journal: Journal, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._monotonic = monotonic
        self._children: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        name: str,
        netns: Path,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Runs `argv` in a namespace; output goes to `logs/NAME.log` of the lab unless `stdout` says else."""
        with (self._journal.logs / f"{name}.log").open("ab") as log, entered(netns):
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        self._children.append(process)
        self._journal.note_process(name, process.pid, began(process.pid) or 0)
        return process

    def start_ready(
        self, name: str, netns: Path, argv: Sequence[str], *, timeout_s: float = 10.0
    ) -> subprocess.Popen[bytes]:
        """As `start`, and waits until the program says `ready` on its first line of output."""
        process = self.start(name, netns, argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = self._first_line(process.stdout.fileno(), timeout_s)
        if not line.startswith(READY):
            process.kill()
            process.wait()
            process.stdout.close()
            log = (self._journal.logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
            raise LabError(f"{name} did not get ready in {timeout_s:g} s: {log[-1] if log else 'no output'}")
        process.stdout.close()
        return process

    def end_all(self, namespaces: Iterable[Path], grace_s: float = 5.0) -> None:
        """SIGTERM to every process of the lab, SIGKILL to what is left after `grace_s`."""
        ours = {process.pid: process for process in (*self._started(), *residents(namespaces))}
        ours.pop(os.getpid(), None)
        for process in ours.values():
            _signal(process.terminate)
        alive = self._left(ours.values(), grace_s)
        for process in alive:
            _signal(process.kill)
        self._left(alive, grace_s)
        for child in self._children:
            child.wait()
        self._children.clear()

    def _left(self, processes: Iterable[psutil.Process], limit_s: float) -> list[psutil.Process]:
        """Those that live on when the time is up."""
        left, deadline = list(processes), self._monotonic() + limit_s
        while left := [process for process in left if _lives(process)]:
            if self._monotonic() > deadline:
                break
            time.sleep(POLL_S)
        return left

    def _started(self) -> list[psutil.Process]:
        found = []
        for _, pid, since in self._journal.processes():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if began(pid) == since:
                    found.append(process)
        return found

    def _first_line(self, fd: int, timeout_s: float) -> bytes:
        deadline = self._monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - self._monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                break
            byte = os.read(fd, 1)
            if not byte:
                break
            line += byte
        return line


def began(pid: int) -> int | None:
    """In ticks since boot; None for one that is gone. What psutil tells is a time of day, and moves with the clock."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[_BEGAN_FIELD])


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        pass


def _lives(process: psutil.Process) -> bool:
    """One that has ended and is not reaped does not: the first process of a container may reap nobody."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def residents(paths: Iterable[Path]) -> list[psutil.Process]:
    """Processes whose main thread lives in one of the namespaces."""
    inodes = {path.stat().st_ino for path in paths if path.exists()}
    found = []
    for process in psutil.process_iter():
        try:
            if os.stat(f"/proc/{process.pid}/ns/net").st_ino in inodes:
                found.append(process)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
