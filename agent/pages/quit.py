"""`/quit`: the same as SIGTERM."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json


@dataclass(frozen=True, slots=True)
class QuitPage:
    stop: asyncio.Event

    async def __call__(self, _: Request) -> Response:
        self.stop.set()
        return as_json({"stopping": True})
