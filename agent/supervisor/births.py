"""Starts workers by forks of the nursery, and has the nursery end when none is wanted for a while.

It would hold memory that nobody else maps any more: what workers write to, they copy. The next birth makes it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from agent.build import build_id, on_disk
from redirect.nursery import Nursery
from redirect.spawn import Child

log = logging.getLogger(__name__)

IDLE_S = 2.0


class Births:
    """Of one control process; belongs to the running loop. `start` is as `spawn.start`."""

    def __init__(self, nursery: Nursery, idle_s: float = IDLE_S) -> None:
        self._nursery = nursery
        self._idle_s = idle_s
        self._end: asyncio.TimerHandle | None = None

    def start(self, module: str, arguments: Iterable[str], *, pass_fds: Sequence[int] = ()) -> Child:
        """A process forked from the nursery. Raises OSError."""
        if self._nursery.pid is None:
            self._look_at_code()
        try:
            return self._nursery.start(module, arguments, pass_fds=pass_fds)
        finally:
            self.rest()

    def _look_at_code(self) -> None:
        """A nursery that is made again has what lies on the disk by now."""
        found = on_disk()
        if found != build_id():
            log.warning(
                "the code was replaced while this agent runs (it is build %s): workers that are started now are of"
                " build %s; restart the agent",
                build_id(),
                found,
            )

    def rest(self) -> None:
        """Nobody is wanted now: let the nursery end, unless somebody is before long."""
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(self._idle_s, self._nursery.close)

    def close(self) -> None:
        if self._end is not None:
            self._end.cancel()
        self._nursery.close()
