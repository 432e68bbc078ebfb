"""`/healthz/ready`: whether connections are accepted, and all pods were named, in the words of ztunnel's own page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.admin.server import Handler, Request, Response, Routes, text

if TYPE_CHECKING:
    from agent.zds.source import ZdsSource


@dataclass(frozen=True, slots=True)
class ReadyPage:
    """`zds`: None where no istio-cni is asked for pods."""

    is_serving: Callable[[], bool]
    zds: ZdsSource | None = None

    async def __call__(self, _: Request) -> Response:
        pending = [] if self.is_serving() else ["state manager"]
        if self.zds is not None and not self.zds.has_snapshot:
            pending.append("workload proxy manager")
        if not pending:
            return text("ready\n")
        return text(f"not ready, pending: {', '.join(pending)}\n", 500)


def readiness_routes(page: Handler) -> Routes:
    return {("GET", "/healthz/ready"): page}
