"""Pages over real parts, and which of them a loopback port may serve."""

from __future__ import annotations

import asyncio
import json
import os
from ipaddress import ip_network
from random import Random
from typing import Any

import pytest

from agent.admin.server import BadRequest, Request, Response, dispatch, text
from agent.enroll.handed import HandedNamespaces
from agent.model.address import NamespacedHostname, NetworkAddress, parse_ip
from agent.model.policy import Action, Authorization, Clause, Match, Rule, Scope
from agent.model.service import CidrVip
from agent.model.workload import GatewayAddress
from agent.pages.announced import AnnouncedPage
from agent.pages.enrolment import honesty_of, pod_of
from agent.pages.mesh_lists import PoliciesPage, ServicesPage
from agent.pages.pprof import INSTEAD
from agent.pages.quit import QuitPage, StepAsidePage
from agent.pages.ready import ReadyPage, readiness_routes
from agent.pages.routes import Pages
from agent.state.apply import Batch
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.taker import Taker
from agent.zds.source import ZdsSource
from tests.support import mesh


async def page(_: Request) -> Response:
    return text("a page\n")


PAGES = Pages(**dict.fromkeys(Pages.__dataclass_fields__, page))


def answer(routes: Any, method: str, path: str) -> Response:
    return asyncio.run(dispatch(Request(method, path), routes))


@pytest.mark.parametrize("path", ["/enroll", "/unenroll", "/quit", "/step-aside"])
def test_what_changes_something_is_on_the_unix_socket_only(path: str) -> None:
    assert answer(PAGES.private_routes(), "POST", path).status == 200
    for routes in (PAGES.admin_routes(), PAGES.metrics_routes(), readiness_routes(page)):
        for method in ("GET", "POST"):
            assert answer(routes, method, path).status == 404


READING = [
    "/status",
    "/connections",
    "/tunnels",
    "/announced",
    "/certificates",
    "/policies",
    "/limits",
    "/services",
]

OF_ZTUNNEL = ["/config_dump", "/logging", "/quitquitquit", *INSTEAD]
"""At ztunnel's places, also those that change something: they look who asks themselves (test_of_ztunnel)."""


@pytest.mark.parametrize("path", [*READING, *OF_ZTUNNEL])
def test_reading_is_on_both(path: str) -> None:
    for routes in (PAGES.admin_routes(), PAGES.private_routes()):
        assert answer(routes, "GET", path).status == 200


def test_the_root_lists_what_can_be_read() -> None:
    response = answer(PAGES.admin_routes(), "GET", "/")
    assert response.body.decode().split() == sorted([*READING, *OF_ZTUNNEL])


def test_ready_says_whether_connections_are_accepted() -> None:
    routes = [readiness_routes(ReadyPage(lambda v=v: v)) for v in (0, 1)]
    assert [answer(each, "GET", "/healthz/ready").status for each in routes] == [500, 200]


def test_ready_waits_until_an_istio_cni_has_named_all_pods() -> None:
    source = ZdsSource("/nobody", HandedNamespaces(), Random(1))
    routes = {("GET", "/healthz/ready"): ReadyPage(lambda: True, source)}
    first = answer(routes, "GET", "/healthz/ready")
    assert (first.status, first.body) == (500, b"not ready, pending: workload proxy manager\n")
    source.has_snapshot = True
    assert answer(routes, "GET", "/healthz/ready").status == 200


def test_announced_lists_the_pods_that_speak_hbone() -> None:
    store = Store(Snapshot(node="n1"))
    store.apply(Batch(addresses=(mesh.workload("a"), mesh.workload("b", protocol=mesh.TunnelProtocol.NONE))))
    response = asyncio.run(AnnouncedPage(store)(Request("GET", "/announced")))
    assert json.loads(response.body) == {"announced": ["apps/a"]}


def test_quit_stops() -> None:
    stop = asyncio.Event()
    assert asyncio.run(QuitPage(stop)(Request("POST", "/quit"))).status == 200
    assert stop.is_set()


def test_who_is_asked_to_step_aside_hears_for_whom_and_stops() -> None:
    stop, asked = asyncio.Event(), list[tuple[str, Taker | None]]()
    page = StepAsidePage(stop, lambda *heard: asked.append(heard))
    assert asyncio.run(page(Request("POST", "/step-aside", body=b"{}"))).status == 400
    assert not asked and not stop.is_set()
    late = b'{"pod": "next", "take_over_s": "late"}'
    assert asyncio.run(page(Request("POST", "/step-aside", body=late))).status == 400
    assert not asked and not stop.is_set()
    assert asyncio.run(page(Request("POST", "/step-aside", body=b'{"pod": "next"}'))).status == 200
    assert asked == [("next", None)] and stop.is_set()
    body = b'{"pod": "next", "take_over_s": 5}'
    for pid, heard in ((os.getpid(), Taker.of(os.getpid(), 5.0)), (0, None)):
        asyncio.run(page(Request("POST", "/step-aside", body=body, pid=pid)))
        assert asked[-1] == ("next", heard)
    assert asked[-2][1] is not None


@pytest.mark.parametrize(
    "body", [{}, {"namespace": "apps"}, {"namespace": "", "name": "a"}, {"namespace": 1, "name": "a"}]
)
def test_a_request_that_names_no_pod_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="names no pod"):
        pod_of(body)


def rows(page: Any) -> Any:
    """The one list that a page answers, whatever it is called."""
    (listed,) = json.loads(asyncio.run(page(Request("GET", "/"))).body).values()
    return listed


def test_policies_name_the_pods_of_this_node_that_they_judge() -> None:
    store = Store(Snapshot(node="n1"))
    rules = (Rule((Clause((Match(destination_ports=(80,)),)),)),)
    wide = Authorization("wide", "apps", Scope.NAMESPACE, Action.DENY, rules)
    narrow = Authorization("narrow", "apps", Scope.WORKLOAD_SELECTOR, Action.ALLOW, rules)
    here = mesh.workload("a", node="n1", authorization_policies=("apps/narrow",))
    there = mesh.workload("b", node="n2", authorization_policies=("apps/narrow",))
    store.apply(Batch(addresses=(here, there, mesh.workload("c", node="n1"))))
    store.apply(Batch(authorizations=(("apps/wide", wide), ("apps/narrow", narrow))))
    assert [(row["policy"], row["action"], row["pods"]) for row in rows(PoliciesPage(store))] == [
        ("apps/narrow", "Allow", ["apps/a"]),
        ("apps/wide", "Deny", ["apps/a", "apps/c"]),
    ]


def test_a_policy_says_which_object_it_was_written_as() -> None:
    store = Store(Snapshot(node="n1"))
    for namespace, name in (
        ("apps", "wide"),
        ("apps", "converted_peer_authentication_pa"),
        ("istio-system", "istio_converted_static_strict"),
    ):
        policy = Authorization(name, namespace, Scope.WORKLOAD_SELECTOR, Action.DENY, ())
        store.apply(Batch(authorizations=((f"{namespace}/{name}", policy),)))
    assert [row["from"] for row in rows(PoliciesPage(store))] == [
        "PeerAuthentication apps/pa",
        "AuthorizationPolicy apps/wide",
        "PeerAuthentication, STRICT",
    ]


def test_services_list_their_usable_endpoints() -> None:
    store = Store(Snapshot(node="n1"))
    service = mesh.service("web")
    store.apply(Batch(addresses=(service, mesh.workload("a", services={service.key: {80: 8080}}))))
    (row,) = rows(ServicesPage(store))
    assert (row["service"], row["endpoints"]) == ("apps/web", ["apps/a"])


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        (NetworkAddress("", parse_ip("10.0.9.1")), "10.0.9.1:15008"),
        (NetworkAddress("west", parse_ip("fd00::1")), "west/[fd00::1]:15008"),
        (NamespacedHostname("demo", "wp.demo.svc.cluster.local"), "demo/wp.demo.svc.cluster.local:15008"),
    ],
    ids=["address", "other-network", "name"],
)
def test_a_services_waypoint_is_shown_as_people_write_it(
    where: NetworkAddress | NamespacedHostname, shown: str
) -> None:
    store = Store(Snapshot(node="n1"))
    store.apply(Batch(addresses=(mesh.service("web", waypoint=GatewayAddress(where, 15008)),)))
    (row,) = rows(ServicesPage(store))
    assert row["waypoint"] == shown


def test_services_list_ranges_too_and_no_port_zero() -> None:
    store = Store(Snapshot(node="n1"))
    ranges = (CidrVip("", ip_network("192.0.2.0/24")),)
    store.apply(Batch(addresses=(mesh.service("db", "10.0.0.1", cidr_vips=ranges, ports={80: 0, 81: 8081}),)))
    (row,) = rows(ServicesPage(store))
    assert (row["vips"], row["ports"]) == (["10.0.0.1", "192.0.2.0/24"], {"80": None, "81": 8081})


def test_whether_connects_are_honest_is_a_switch() -> None:
    assert [honesty_of(body) for body in ({}, {"honest_connect": True}, {"honest_connect": False})] == [
        None,
        True,
        False,
    ]
    with pytest.raises(BadRequest, match="honest_connect of the request is 'yes'"):
        honesty_of({"honest_connect": "yes"})
