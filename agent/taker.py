"""Whom an agent gave its place to, and what becomes of one that stands still and does not come to serve.

Who takes over ends by itself where it is too late (`--take-over-s`). One that is stopped, or hangs, cannot: who stands
by gives it the same time once more, asks, and ends it where nobody answers. It is known by its pid and when it began,
and has to hold the lock of the run directory: so no other process is hit, nor another agent.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.run_lock import NAME as LOCK

log = logging.getLogger(__name__)

ANSWER_S = 10.0
ASK_EVERY_S = 1.0
SERVES = ("READY", "DEGRADED")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Taker:
    """A process, which began at `began` (clock ticks since the machine's start), and how long it may take to serve."""

    pid: int
    began: int
    limit_s: float

    @classmethod
    def of(cls, pid: int, limit_s: float) -> Taker | None:
        """None where it is not seen from here: of another PID namespace it has the number 0, or it has ended."""
        began = _began(pid) if pid else None
        return None if began is None else cls(pid, began, limit_s)

    @classmethod
    def read(cls, told: Mapping[str, float]) -> Taker:
        """The object that `written` is the JSON of."""
        return cls(int(told["pid"]), int(told["began"]), told["limit_s"])

    @property
    def written(self) -> str:
        return json.dumps({"pid": self.pid, "began": self.began, "limit_s": self.limit_s})

    def end(self, directory: Path) -> bool:
        """Whether it held the lock of the run directory, and is ended. Raises OSError."""
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                # Only now: from here on the number cannot become another's unnoticed.
                if _began(self.pid) == self.began and _holds(self.pid, directory / LOCK):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    return True
            finally:
                os.close(pidfd)
        return False


class Overdue:
    """What who stands by does about its taker, called again and again while it waits for the lock."""

    def __init__(
        self,
        taker: Taker,
        directory: Path,
        status: Callable[[Path, float], Mapping[str, object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`status`: as `agent.succession.status_in`."""
        self._taker: Taker | None = taker
        self._directory = directory
        self._clock = clock
        self._status = status
        self._next_s = clock() + 2 * taker.limit_s

    def __call__(self) -> None:
        taker = self._taker
        if taker is None or self._clock() < self._next_s:
            return
        if self._status(self._directory, ANSWER_S).get("state") in SERVES:
            # It can end itself, so it has come in time.
            self._taker = None
            return
        try:
            if taker.end(self._directory):
                log.error(
                    "process %d did not come to serve within %g s of taking over (--take-over-s), nor end, and does "
                    "not answer: it is killed, and this agent goes on",
                    taker.pid,
                    taker.limit_s,
                )
                self._taker = None
        except OSError as error:
            log.error("process %d has taken over and stands still; it cannot be ended: %s", taker.pid, error)
            self._taker = None
        self._next_s = self._clock() + ASK_EVERY_S


def _began(pid: int) -> int | None:
    """Field 22 of proc_pid_stat(5)."""
    try:
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None


def _holds(pid: int, path: Path) -> bool:
    """Whether a descriptor of the process has this file, and a lock of it (`lock:` of proc_pid_fdinfo(5))."""
    process = _PROC / str(pid)
    with suppress(OSError):
        wanted = path.stat()
        for each in os.listdir(process / "fd"):
            # Others come and go meanwhile.
            with suppress(FileNotFoundError):
                is_it = os.path.samestat((process / "fd" / each).stat(), wanted)
                if is_it and "\nlock:" in (process / "fdinfo" / each).read_text():
                    return True
    return False
