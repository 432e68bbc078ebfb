"""`/audit`: where the kernel differs from what the agent wants, and what runs at the hooks. For root alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json


@dataclass(frozen=True, slots=True)
class AuditPage:
    look: Callable[[], Awaitable[Mapping[str, object]]]

    async def __call__(self, _: Request) -> Response:
        return as_json(dict(await self.look()))
