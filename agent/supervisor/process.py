"""A worker's process, held by a descriptor: who is signalled and waited for is it, never who has its number now.

What this process started says why it ended; an adopted worker is nobody's child here and cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from agent.supervisor.patience import within
from redirect.spawn import Cause, Child, Failure

END_PATIENCE_S = 2.0
UNKNOWN = Failure(Cause.DIED, "it was started by another control process, which alone could say why")
STUCK = Failure(Cause.SYSTEM, "it does not end, not even by SIGKILL")


class Process:
    """One process; `close` lets go of it without ending it. Belongs to the running loop."""

    def __init__(self, pid: int, *, child: Child | None = None) -> None:
        """Raises ProcessLookupError where nobody has that pid."""
        self.pid = pid
        self._child = child
        self._pidfd = os.pidfd_open(pid)
        self._is_open = True
        self._is_over = asyncio.Event()
        self._failure: Failure | None = None
        self._loop = asyncio.get_running_loop()
        # A pidfd is readable from the process's end on.
        self._loop.add_reader(self._pidfd, self._ended)

    @classmethod
    def of(cls, child: Child) -> Process:
        return cls(child.pid, child=child)

    def kill(self) -> None:
        """End it at once, if it is still there."""
        if self._is_open:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self) -> Failure:
        """Return when it has ended, with the reason."""
        await self._is_over.wait()
        return self._failure or UNKNOWN

    async def end(self, patience_s: float = END_PATIENCE_S) -> Failure:
        """Let it end by itself for so long, then end it; answers why it ended, and lets go of it."""
        try:
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    return await within(patience_s, self.ended)
                self.kill()
            return STUCK
        finally:
            self.kill()
            self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            if self._child is not None:
                self._child.close()

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._child is not None:
            self._failure = self._child.failure()
        self._is_over.set()
