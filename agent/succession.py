"""An agent that ends, and the next one: between them workers serve on, until the next one has its own, or has these.

Where the next one waits for the lock already, the control process lets go of workers and run directory, of the
listeners in the kernel side it takes none out, then it lets go of the lock. The next one finds the workers as after a
crash of control: those of other options retire when its own serve. For that second they go on by the last state. This
process stays meanwhile: with the first process of a container all of them end.

With --succession-s nobody waits yet: another one comes in some seconds, as in a DaemonSet. Workers leave the control
groups of the container, whose end would be theirs, and go on by the last state. They end by themselves when nobody has
come in that time; whoever comes takes them into its own groups, and has them print where it prints.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from agent.config import Config, options
from agent.model.counted import counted
from agent.run_lock import AlreadyRuns, RunLock
from agent.supervisor.crew import Crew
from agent.supervisor.orphans import end_all
from agent.taker import Taker
from redirect import outlive

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Whoever stops an agent has less, mostly."""
LOOK_EVERY_S = 0.25
ANSWER_S = 1.0
SOCKET = "agent.sock"
STATUS = b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def unlike(settings: Config) -> frozenset[str]:
    """Options in which workers of the agent before may differ, and serve on: those that no worker reads.

    The name of its pod is another for each pod of a DaemonSet, whose workers are to outlive it; elsewhere an agent by
    another name is another agent, which has workers of its own.
    """
    unread = frozenset(name for name, row in options().items() if row.of_control)
    return unread | {"pod_name"} if settings.succession_s else unread


def taken_in(crew: Crew, settings: Config) -> None:
    """Workers that outlived another agent come into the control groups of this one, with its limits."""
    if not settings.succession_s:
        return
    try:
        outlive.join([link.pid for link in crew.everyone])
    except OSError as error:
        log.warning(
            "workers of the agent before stay outside of this one's control groups and limits: %s", error
        )


class LeftServing:
    """Workers that are left to the next agent; held, so that no number is another's meanwhile.

    `stands_by`: this process goes on beside that one (`agent.standing_by`), which is `taker` where it is known.
    """

    def __init__(self, pids: Sequence[int] = (), *, stands_by: bool = False) -> None:
        self.pids = tuple(pids)
        self.stands_by = stands_by
        self.taker: Taker | None = None
        self._pidfds: dict[int, int] = {}
        for pid in pids:
            with suppress(ProcessLookupError):
                self._pidfds[os.pidfd_open(pid)] = pid

    def see_off(
        self,
        directory: Path,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        on_duty: Callable[[Path], Collection[int]] = lambda directory: on_duty_in(directory),
    ) -> None:
        """Return when they have ended, or somebody else answers for them. Raises OSError, TimeoutError.

        Without the lock of their run directory. When nobody has taken it they are ended: no worker is left to policy
        that nobody tells it. `on_duty`: the workers that serve the agent of a run directory.
        """
        deadline_s = clock() + patience_s
        while self._pidfds and (left_s := deadline_s - clock()) > 0:
            for pidfd in select.select(list(self._pidfds), (), (), min(left_s, LOOK_EVERY_S))[0]:
                os.close(pidfd)
                del self._pidfds[pidfd]
            if set(self._pidfds.values()) <= set(on_duty(directory)):
                break
        if not self._pidfds:
            return
        for pidfd in self._pidfds:
            os.close(pidfd)
        count, self._pidfds = len(self._pidfds), {}
        lock = RunLock(directory)
        try:
            lock.take()
        except AlreadyRuns:
            log.info("%s the next agent", counted(count, "worker serves", "workers serve"))
            return
        try:
            log.error("the agent that waited is gone: ending %s", counted(len(end_all(directory)), "worker"))
        finally:
            lock.close()


def on_duty_in(directory: Path) -> Collection[int]:
    """The pids of the workers on duty of the agent that has the run directory; none where nobody answers."""
    with suppress(ValueError, KeyError, TypeError):
        return [int(row["pid"]) for row in status_in(directory)["workers"]]
    return ()


def status_in(directory: Path, patience_s: float = ANSWER_S) -> dict[str, Any]:
    """The status of the agent that has the run directory; empty where nobody answers."""
    answer = bytearray()
    with closing(socket.socket(socket.AF_UNIX)) as sock, suppress(OSError, ValueError):
        # By hand: what else of ours could be loaded now may be of the next build, on the disk of an upgrade.
        sock.settimeout(patience_s)
        sock.connect(str(directory / SOCKET))
        sock.sendall(STATUS)
        while data := sock.recv(1 << 16):
            answer += data
        status = json.loads(answer.partition(b"\r\n\r\n")[2])
        return status if isinstance(status, dict) else {}
    return {}
