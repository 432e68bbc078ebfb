"""`/connections` and `/tunnels`: what all workers list of one thing, in one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.admin.server import Request, Response, as_json
from agent.model.address import SocketAddress
from agent.supervisor.crew import Crew


@dataclass(frozen=True, slots=True)
class WorkerListPage:
    """`what`: the question that workers know, `connections` or `tunnels`."""

    crew: Crew
    what: str

    async def __call__(self, _: Request) -> Response:
        answers = await self.crew.ask_all(self.what)
        rows = [row for answer in answers if isinstance(answer, list) for row in answer]
        return as_json({self.what: sorted(rows, key=order)})


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    """By pod or identity, then by who is at the other end; addresses as addresses."""
    source = SocketAddress.parse(row["src"]) if "src" in row else None
    where = (source.ip.version, int(source.ip), source.port) if source is not None else ()
    return row.get("pod", ""), row["direction"], row.get("identity", ""), row.get("peer", ""), where
