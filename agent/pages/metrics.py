"""`/metrics`: the figures of this process and the sums over its workers, in the text format the client asks for."""

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
        content_type = exposition.content_type([request.headers.get("accept", "")])
        body = await asyncio.to_thread(exposition.expose, snapshot, content_type)
        return Response(body, content_type=content_type, vary=("accept",))
