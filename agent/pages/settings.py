"""`/settings`: the options that this agent runs by, for who looks at the node beside it. On the unix socket alone."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Request, Response, as_json
from agent.config import Config
from agent.dump.settings import own_row


@dataclass(frozen=True, slots=True)
class SettingsPage:
    settings: Config

    async def __call__(self, _: Request) -> Response:
        return as_json({"settings": own_row(self.settings)})
