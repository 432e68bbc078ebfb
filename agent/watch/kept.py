"""Looks every second what is left of connections that pods had before they were captured, and has them end in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from agent.enroll.captures import Captures
from agent.enroll.kernel import KernelSide
from agent.model.counted import counted
from redirect.errors import RedirectError
from redirect.existing import LEAD_NS, Kept

log = logging.getLogger(__name__)

LOOK_EVERY_S = LEAD_NS / 1e9 / 2


class KeptConnections:
    """`by_interface`: of pods that have some, at the last look."""

    def __init__(self, kernel: KernelSide, captures: Captures) -> None:
        self._kernel = kernel
        self._captures = captures
        self._problem = ""
        self.by_interface: Mapping[int, Kept] = {}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        try:
            found = await self._kernel.run(lambda redirection: redirection.kept())
        except (RedirectError, OSError) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("connections from before pods were captured cannot be looked at: %s", error)
            return
        self._problem = ""
        self.by_interface = {each.ifindex: each for each in found if each.count}
        owners = self._captures.owners
        for each in found:
            if each.ended and each.ifindex in owners:
                key = owners[each.ifindex]
                text = (
                    f"{counted(each.ended, 'connection')} from before it was enrolled "
                    f"{'is' if each.ended == 1 else 'are'} reset: the time for that is over"
                )
                self._captures.history.note(key, f"pod {key}: {text}", logging.WARNING)
