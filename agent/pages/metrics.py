"""`/metrics`: the figures of this process and the sums over its workers, as OpenMetrics text."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.admin.server import Request, Response
from agent.telemetry import exposition
from agent.telemetry.metrics import Figures
from agent.telemetry.totals import Totals
from agent.watch.kernel_counters import KernelCounters


@dataclass(frozen=True, slots=True)
class MetricsPage:
    counters: KernelCounters
    totals: Totals
    figures: Figures

    async def __call__(self, request: Request) -> Response:
        await self.counters.read()
        snapshot = self.totals.snapshot(self.figures)
        # A large exposition takes a while: off the loop, so that enrolment and policy do not wait for it.
        body = await asyncio.to_thread(exposition.expose, snapshot)
        return Response(body, content_type=exposition.content_type([request.headers.get("accept", "")]))
