"""`/announced`: the pods that the control plane announces as reachable by HBONE."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json
from agent.model.workload import TunnelProtocol
from agent.state.store import Store


@dataclass(frozen=True, slots=True)
class AnnouncedPage:
    store: Store

    async def __call__(self, _: Request) -> Response:
        workloads = self.store.current.workloads.values()
        names = sorted(f"{w.namespace}/{w.name}" for w in workloads if w.protocol is TunnelProtocol.HBONE)
        return as_json({"announced": names})
