"""`/quit` and ztunnel's `/quitquitquit` are the same as SIGTERM; `/step-aside` is the next agent's, for its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class StepAsidePage:
    """`step_aside` hears which pod asks; answered before anything is let go of."""

    stop: asyncio.Event
    step_aside: Callable[[str], None]

    async def __call__(self, request: Request) -> Response:
        try:
            pod = json.loads(request.body)["pod"]
        except (ValueError, TypeError, KeyError):
            return text("the name of the pod that asks is missing\n", 400)
        self.step_aside(str(pod))
        self.stop.set()
        return as_json({"stepping_aside": True})
