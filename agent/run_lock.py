"""The lock of a run directory: one agent at a time, and nobody takes its things away while it runs.

It goes with the process that holds it, however that ends. Whoever removes the directory removes the lock last. An agent
that waits for it shares a second lock meanwhile, by which the one before it knows that it is followed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from types import TracebackType

NAME = "agent.lock"
NEXT = "agent.next"
POLL_S = 0.05

log = logging.getLogger(__name__)


class AlreadyRuns(Exception):
    """The run directory belongs to an agent that lives; the text says which."""


class RunLock:
    """Held from `take` to `close`, or in a `with`, which waits so long for another agent to end.

    The directory must be there. `meanwhile` is called again and again in a `with` that waits.
    """

    def __init__(
        self, directory: Path, patience_s: float = 0.0, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        self._path = directory / NAME
        self._patience_s = patience_s
        self._meanwhile = meanwhile
        self._fd = -1

    def take(self) -> None:
        """Raises AlreadyRuns."""
        while True:
            # Not for writing: one that exists can be had in a directory that became read-only, too.
            fd = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A lock on a file that was removed meanwhile excludes nobody.
                if self._is_lock_file(fd):
                    self._fd = fd
                    return
            except BlockingIOError as error:
                os.close(fd)
                raise AlreadyRuns(f"{self._running}: stop it, or choose --instance") from error
            os.close(fd)

    @property
    def _running(self) -> str:
        return f"another agent runs on {self._path.parent}"

    @property
    def is_whole(self) -> bool:
        """Whether who takes the lock of this directory now meets this one."""
        try:
            return self._is_lock_file(self._fd)
        except OSError:
            return False

    @property
    def is_awaited(self) -> bool:
        """Whether an agent waits for this one to end. Raises OSError."""
        try:
            fd = os.open(self._path.with_name(NEXT), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def take_anew(self) -> None:
        """In place of the one that is held, whose name leads elsewhere by now. Raises AlreadyRuns, OSError."""
        before = self._fd
        self.take()
        os.close(before)

    def wait(
        self,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take it when the agent has ended. Raises AlreadyRuns after so long."""
        deadline_s = clock() + patience_s
        while True:
            try:
                self.take()
            except AlreadyRuns:
                if clock() >= deadline_s:
                    raise
                sleep(POLL_S)
            else:
                return

    def close(self) -> None:
        os.close(self._fd)

    def remove(self) -> None:
        """Let go of it, and leave no file: for whoever removes what else is in the directory."""
        self._path.with_name(NEXT).unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> RunLock:
        try:
            self.take()
        except AlreadyRuns:
            if not self._patience_s:
                raise
            waiting = os.open(self._path.with_name(NEXT), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(waiting, fcntl.LOCK_SH)
                limit = f", {self._patience_s:g} s at most" if isfinite(self._patience_s) else ""
                # As was asked for: nothing to stop, and no warning.
                log.info("%s; waiting until it ends%s", self._running, limit)

                def sleep(pause_s: float) -> None:
                    self._meanwhile()
                    time.sleep(pause_s)

                self.wait(self._patience_s, sleep=sleep)
            finally:
                os.close(waiting)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_lock_file(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False
