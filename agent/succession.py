"""An agent that ends while the next one waits for its lock: its workers serve on, until the next one has its own.

Order: the control process lets go of workers and run directory, of the listeners in the kernel side it takes none out,
then it lets go of the lock. The next one finds the workers as after a crash of control: those of other options retire
when its own serve. For that second they go on by the last state. This process stays meanwhile: with the first process
of a container all of them end.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from agent.run_lock import AlreadyRuns, RunLock
from agent.supervisor.orphans import end_all

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Whoever stops an agent has less, mostly; and where workers stay on duty there is nothing to wait for."""


class LeftServing:
    """Workers that are left to the next agent; held, so that no number is another's meanwhile."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._pidfds: set[int] = set()
        for pid in pids:
            with suppress(ProcessLookupError):
                self._pidfds.add(os.pidfd_open(pid))

    def see_off(
        self,
        directory: Path,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Return when they have ended, or somebody else answers for them. Raises OSError, TimeoutError.

        Without the lock of their run directory. When nobody has taken it they are ended: no worker is left to policy
        that nobody tells it.
        """
        deadline_s = clock() + patience_s
        while self._pidfds and (left_s := deadline_s - clock()) > 0:
            ended = select.select(list(self._pidfds), (), (), left_s)[0]
            for pidfd in ended:
                os.close(pidfd)
            self._pidfds.difference_update(ended)
        if not self._pidfds:
            return
        for pidfd in self._pidfds:
            os.close(pidfd)
        count, self._pidfds = len(self._pidfds), set()
        lock = RunLock(directory)
        try:
            lock.take()
        except AlreadyRuns:
            log.info("%d workers serve the next agent", count)
            return
        try:
            log.error("the agent that waited is gone: ending %d workers", len(end_all(directory)))
        finally:
            lock.close()
