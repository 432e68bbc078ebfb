"""Where the agent's pages are served: WIRING ONLY, beside `agent.app_pages`, which makes the pages.

They are loaded with the first request, or when the agent is ready: a start waits for none of them but `/healthz/ready`.
"""

from __future__ import annotations

import asyncio
import importlib
from functools import cache
from typing import TYPE_CHECKING

from agent.admin.late_routes import LateRoutes
from agent.admin.server import Routes
from agent.pages.ready import ReadyPage, readiness_routes

if TYPE_CHECKING:
    from agent.app import Agent
    from agent.pages.routes import Pages

PAGES = "agent.app_pages"


class PagesOf:
    """The routes of each kind of place."""

    def __init__(self, agent: Agent, stop: asyncio.Event) -> None:
        @cache
        def made() -> Pages:
            pages: Pages = importlib.import_module(PAGES).pages_of(agent, stop)
            return pages

        self.load = made
        self.private: Routes = LateRoutes(lambda: made().private_routes())
        self.admin: Routes = LateRoutes(lambda: made().admin_routes())
        self.metrics: Routes = LateRoutes(lambda: made().metrics_routes())
        self.readiness = readiness_routes(ReadyPage(lambda: agent.is_serving, agent.zds))
