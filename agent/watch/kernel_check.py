"""Asks the kernel whether all that is captured is whole, and has made again at once what can be.

What it finds broken and mends is logged; what stays broken is a finding, of the pod that it concerns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping

from agent.enroll.abridged import abridged
from agent.proof.findings import Finding, Link
from agent.telemetry import families
from agent.telemetry.metrics import Figures
from redirect import findings
from redirect.findings import Part

log = logging.getLogger(__name__)

LINK_OF_PART = {
    Part.INTERFACE: Link.INTERFACE,
    Part.LINK_STATE: Link.INTERFACE,
    Part.ENTRY: Link.PROGRAM,
    Part.PROGRAM: Link.PROGRAM,
    Part.INNER_DEVICE: Link.INNER_DEVICE,
    Part.NAMESPACE: Link.NAMESPACE,
    Part.LOOKUP: Link.LOOKUP,
    Part.LISTENER: Link.LISTENER,
    Part.PREFILTER: Link.PROGRAM,
    Part.PIN: Link.PIN,
}


class KernelCheck:
    """`prove` asks the kernel, `mend` makes again what is missing, `pods` says whose an interface is.

    Asked by the proofs every other second, and by whoever hears that something changed.
    """

    def __init__(
        self,
        prove: Callable[[], Awaitable[Iterable[findings.Finding]]],
        mend: Callable[[], Awaitable[None]],
        pods: Callable[[], Mapping[int, str]],
        figures: Figures,
    ) -> None:
        self._prove = prove
        self._mend = mend
        self._pods = pods
        self._figures = figures
        self._one_at_a_time = asyncio.Lock()
        for part in Part:
            figures.put(families.DRIFT, part.value, count=0)

    async def __call__(self) -> list[Finding]:
        # Two that find the same would say so twice.
        async with self._one_at_a_time:
            found = await self._look()
            mendable = [each for each in found if each.is_mendable]
            if mendable:
                for line in abridged(map(str, mendable)):
                    log.warning("the kernel side is not whole: %s: it is made again", line)
                await self._mend()
                found = await self._look()
        pods = self._pods()
        return [
            Finding(LINK_OF_PART[each.part], pods.get(each.ifindex or 0, ""), each.reason, each.remedy)
            for each in found
            # An interface that is gone is known at once, from netlink, and looked for.
            if each.part is not Part.INTERFACE
        ]

    async def _look(self) -> list[findings.Finding]:
        found = list(await self._prove())
        count = Counter(each.part for each in found)
        for part in Part:
            self._figures.put(families.DRIFT, part.value, count=count[part])
        return found
