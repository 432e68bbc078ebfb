"""One agent per run directory: a lock that the kernel gives up with the process, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType


class AlreadyRuns(Exception):
    """The run directory belongs to an agent that lives; the text says which."""


class RunLock:
    """One agent per run directory; the lock goes with the process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "agent.lock"

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise AlreadyRuns(
                f"another agent runs on {self._path.parent}: stop it, or choose --instance"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
