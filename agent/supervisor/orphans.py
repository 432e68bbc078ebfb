"""Ends the workers of a run directory when no control process is there to do it: they are made to outlive it."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import closing, suppress
from pathlib import Path

from agent.supervisor.peer import listening_pid
from agent.supervisor.recruiter import SOCKETS

PATIENCE_S = 30.0
"""Killed, a process still closes what it had: on a busy machine that takes seconds."""


def end_all(directory: Path) -> list[int]:
    """End every worker of the run directory at once, whoever started it; the pids of those that ended.

    For a caller that holds the directory's lock. Raises TimeoutError for one that does not end.
    """
    ended = []
    for path in sorted(directory.absolute().glob(SOCKETS)):
        pid = _end(path)
        path.unlink(missing_ok=True)
        if pid is not None:
            ended.append(pid)
    return ended


def _end(path: Path) -> int | None:
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return None  # only the name is left
        pid = listening_pid(sock, path)
        if pid is None:
            raise TimeoutError(f"the worker at {path} is not seen from here: end it")
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                # Once more: it may have ended in between, and the number be another's.
                if listening_pid(sock, path) == pid:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    if not select.select([pidfd], [], [], PATIENCE_S)[0]:
                        raise TimeoutError(f"the worker at {path} (pid {pid}) does not end")
            finally:
                os.close(pidfd)
        return pid
