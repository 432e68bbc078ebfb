"""`/quit` and ztunnel's `/quitquitquit`: the same as SIGTERM."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json, text


@dataclass(frozen=True, slots=True)
class QuitPage:
    stop: asyncio.Event

    async def __call__(self, _: Request) -> Response:
        self.stop.set()
        return as_json({"stopping": True})


@dataclass(frozen=True, slots=True)
class ShutdownPage:
    """In ztunnel's words."""

    stop: asyncio.Event

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return text("", 405)
        self.stop.set()
        return text("shutdown now\n")
