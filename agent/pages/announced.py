"""`/announced`: the pods that the control plane announces as reachable by HBONE."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json
from agent.state.store import Store


@dataclass(frozen=True, slots=True)
class AnnouncedPage:
    store: Store

    async def __call__(self, _: Request) -> Response:
        return as_json({"announced": sorted(self.store.current.workloads.announced())})
