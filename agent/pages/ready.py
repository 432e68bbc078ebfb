"""`/healthz/ready`: whether connections are accepted, in the words of ztunnel's own page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.admin.server import Request, Response, text


@dataclass(frozen=True, slots=True)
class ReadyPage:
    is_serving: Callable[[], bool]

    async def __call__(self, _: Request) -> Response:
        if self.is_serving():
            return text("ready\n")
        return text("not ready, pending: state manager\n", 500)
