"""Pages that are loaded when somebody asks: the first request has its answer, and they are made once."""

from __future__ import annotations

import asyncio

from agent.admin.late_routes import LateRoutes
from agent.admin.server import Request, Response, Routes, dispatch, text


def test_the_first_request_makes_the_routes_and_is_answered_by_them() -> None:
    made = []

    async def page(_: Request) -> Response:
        return text("a page\n")

    def make() -> Routes:
        made.append(1)
        return {("GET", "/here"): page, ("*", "/any"): page}

    routes = LateRoutes(make)
    assert not made
    asked = [("GET", "/here"), ("POST", "/any"), ("POST", "/here"), ("GET", "/nowhere")]
    answers = [asyncio.run(dispatch(Request(*each), routes)).status for each in asked]
    assert answers == [200, 200, 405, 404] and made == [1]
