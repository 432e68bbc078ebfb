"""`/certificates`: every identity in use on this node, with the state of its certificate. Never a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json
from agent.identity.keeper import Keeper
from agent.pages.times import utc


@dataclass(frozen=True, slots=True)
class CertificatesPage:
    """`wall`: seconds since the epoch."""

    keeper: Keeper
    wall: Callable[[], float]

    async def __call__(self, _: Request) -> Response:
        now = self.wall()
        rows = [
            {
                "identity": str(held.identity),
                "state": held.state.value,
                "not_before": utc(held.not_before),
                "not_after": utc(held.not_after),
                "ended_by": held.ended_by,
                "left_s": round(held.not_after - now, 1) if held.not_after is not None else None,
                "next_attempt_s": round(held.next_attempt - now, 1),
                "failures": held.failures,
                "error": held.error,
            }
            for held in self.keeper.held()
        ]
        return as_json({"certificates": sorted(rows, key=lambda row: str(row["identity"]))})
