"""Reads what the kernel's programs have counted, every second and whenever somebody asks for the figures.

The counters go among the figures of the control process, with what that process knows of itself; the rate of drops
and whether they could be read at all are kept for the judgement of health.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter

from agent.enroll.captures import Captures
from agent.enroll.kernel import KernelSide
from agent.enroll.prefilter import Prefilter
from agent.telemetry import families
from agent.telemetry.metrics import Figures
from agent.watch.openings import Openings
from redirect.errors import RedirectError
from redirect.findings import Part
from redirect.layout import REASONS
from redirect.opened import Opened
from redirect.reconcile import Redirection
from redirect.unseen import Passed

POLL_S = 1.0
DENIED = ("to_pod", "DENIED")
DROPS = {(reason.program, reason.name) for reason in REASONS if reason.is_drop}


class KernelCounters:
    """`drops_per_s` of the last second; `problem`, why the counters cannot be read, empty if they can.

    `openings`: which pods are open, because somebody broke the glass. `passed`: what may have passed captured pods'
    interfaces while they were not guarded, since this agent started.
    """

    def __init__(
        self, kernel: KernelSide, captures: Captures, figures: Figures, prefilter: Prefilter | None = None
    ) -> None:
        self._kernel, self._captures, self._figures = kernel, captures, figures
        self._prefilter = prefilter
        self._drops = self._denied = 0
        self.drops_per_s = 0.0
        self.problem = ""
        self.passed = Passed()
        self.openings = Openings(figures)

    async def watch(self) -> None:
        """Keep figures and rate current, until cancelled."""
        drops, at_s = await self.read(), time.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            now_drops, now_s = await self.read(), time.monotonic()
            self.drops_per_s = max(0, now_drops - drops) / (now_s - at_s)
            drops, at_s = now_drops, now_s

    async def read(self) -> int:
        """Put the kernel's counters and this process's own among the figures; answers the packets dropped."""
        figures = self._figures
        figures.put(families.MAX_FDS, count=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        figures.put(families.PODS_ACTIVE, count=len(self._captures.pods))
        figures.put(families.PODS_PENDING, count=len(self._captures.waiting))
        try:
            # Takes a descriptor itself, so that it fails just where it matters.
            figures.put(families.OPEN_FDS, count=len(os.listdir("/proc/self/fd")))
            counters, self.passed, opened, repaired = await self._kernel.run(_read)
            await self._read_denied(counters.get(DENIED, 0))
        except (RedirectError, OSError) as error:
            self.problem = f"the kernel's counters cannot be read: {error}"
            return self._drops
        self.problem = ""
        self.openings.seen(opened)
        for (program, reason), packets in counters.items():
            figures.put(families.REDIRECT_PACKETS, program, reason, count=packets)
        figures.put(families.UNGUARDED_PACKETS, "outbound", count=self.passed.outbound)
        figures.put(families.UNGUARDED_PACKETS, "inbound", count=self.passed.inbound)
        for part in Part:
            figures.put(families.REPAIRS, part.value, count=repaired[part])
        self._drops = sum(packets for key, packets in counters.items() if key in DROPS)
        return self._drops

    async def _read_denied(self, packets: int) -> None:
        """Why, if there are more: there may be many entries that have denied none."""
        if self._prefilter is None or packets == self._denied:
            return
        for reason, count in (await self._prefilter.packets()).items():
            self._figures.put(families.PREFILTER_DENIED, reason, count=count)
        self._denied = packets


def _read(
    redirection: Redirection,
) -> tuple[dict[tuple[str, str], int], Passed, tuple[Opened, ...], Counter[Part]]:
    return redirection.stats(), redirection.passed(), redirection.opened(), redirection.repairs.by_part.copy()
