"""Pages over real parts, and which of them a loopback port may serve."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agent.admin.server import BadRequest, Request, Response, dispatch, text
from agent.pages.announced import AnnouncedPage
from agent.pages.enrolment import pod_of
from agent.pages.quit import QuitPage
from agent.pages.ready import ReadyPage
from agent.pages.routes import Pages
from agent.state.apply import Batch
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from tests.support import mesh


async def page(_: Request) -> Response:
    return text("a page\n")


PAGES = Pages(**dict.fromkeys(Pages.__dataclass_fields__, page))


def answer(routes: Any, method: str, path: str) -> Response:
    return asyncio.run(dispatch(Request(method, path), routes))


@pytest.mark.parametrize("path", ["/enroll", "/unenroll", "/quit"])
def test_what_changes_something_is_on_the_unix_socket_only(path: str) -> None:
    assert answer(PAGES.private_routes(), "POST", path).status == 200
    for routes in (PAGES.admin_routes(), PAGES.metrics_routes(), PAGES.readiness_routes()):
        for method in ("GET", "POST"):
            assert answer(routes, method, path).status == 404


@pytest.mark.parametrize("path", ["/status", "/connections", "/tunnels", "/announced"])
def test_reading_is_on_both(path: str) -> None:
    for routes in (PAGES.admin_routes(), PAGES.private_routes()):
        assert answer(routes, "GET", path).status == 200


def test_ready_says_whether_connections_are_accepted() -> None:
    routes = [
        PAGES.readiness_routes() | {("GET", "/healthz/ready"): ReadyPage(lambda v=v: v)} for v in (0, 1)
    ]
    assert [answer(each, "GET", "/healthz/ready").status for each in routes] == [500, 200]


def test_announced_lists_the_pods_that_speak_hbone() -> None:
    store = Store(Snapshot(node="n1"))
    store.apply(Batch(addresses=(mesh.workload("a"), mesh.workload("b", protocol=mesh.TunnelProtocol.NONE))))
    response = asyncio.run(AnnouncedPage(store)(Request("GET", "/announced")))
    assert json.loads(response.body) == ["apps/a"]


def test_quit_stops() -> None:
    stop = asyncio.Event()
    assert asyncio.run(QuitPage(stop)(Request("POST", "/quit"))).status == 200
    assert stop.is_set()


@pytest.mark.parametrize(
    "body", [{}, {"namespace": "apps"}, {"namespace": "", "name": "a"}, {"namespace": 1, "name": "a"}]
)
def test_a_request_that_names_no_pod_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="names no pod"):
        pod_of(body)
