"""`/connections` and `/tunnels`: what all workers list of one thing, in one list."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json
from agent.supervisor.crew import Crew


@dataclass(frozen=True, slots=True)
class WorkerListPage:
    """`what`: the question that workers know, `connections` or `tunnels`."""

    crew: Crew
    what: str

    async def __call__(self, _: Request) -> Response:
        answers = await self.crew.ask_all(self.what)
        return as_json([row for answer in answers if isinstance(answer, list) for row in answer])
