"""A worker's process, held by a descriptor: who is signalled and waited for is it, never who has its number now.

What this process started says why it ended; an adopted worker is nobody's child here and cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from redirect.spawn import Cause, Child, Failure

END_PATIENCE_S = 2.0
UNKNOWN = Failure(Cause.DIED, "it was started by another control process, which alone could say why")
STUCK = Failure(Cause.SYSTEM, "it does not end, not even by SIGKILL")


class Process:
    """One process; `close` lets go of it without ending it."""

    def __init__(self, pid: int, *, child: Child | None = None) -> None:
        """Raises ProcessLookupError where nobody has that pid."""
        self.pid = pid
        self._child = child
        self._pidfd = os.pidfd_open(pid)
        self._is_open = True

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
        loop = asyncio.get_running_loop()
        is_over = asyncio.Event()
        # A pidfd is readable from the process's end on.
        loop.add_reader(self._pidfd, is_over.set)
        try:
            await is_over.wait()
        finally:
            loop.remove_reader(self._pidfd)
        return self._child.failure() if self._child is not None else UNKNOWN

    async def end(self, patience_s: float = END_PATIENCE_S) -> Failure:
        """Let it end by itself for so long, then end it; answers why it ended, and lets go of it."""
        try:
            for _ in range(2):
                try:
                    async with asyncio.timeout(patience_s):
                        return await self.ended()
                except TimeoutError:
                    self.kill()
            return STUCK
        finally:
            self.kill()
            self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._pidfd)
            if self._child is not None:
                self._child.close()
