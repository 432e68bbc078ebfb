"""`/quit` and ztunnel's `/quitquitquit` are the same as SIGTERM; `/step-aside` is the next agent's, for its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json, text
from agent.taker import Taker


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
    """`step_aside` hears which pod asks, and which process, where that is seen, and says how long it may take.

    Answered before anything is let go of.
    """

    stop: asyncio.Event
    step_aside: Callable[[str, Taker | None], None]

    async def __call__(self, request: Request) -> Response:
        try:
            told = json.loads(request.body)
            pod, limit_s = told["pod"], float(told.get("take_over_s", 0))
        except (ValueError, TypeError, KeyError):
            return text("the name of the pod that asks is missing, or take_over_s no number\n", 400)
        # One of before tells no time: it is waited for.
        self.step_aside(str(pod), Taker.of(request.pid, limit_s) if limit_s > 0 else None)
        self.stop.set()
        return as_json({"stepping_aside": True})
