"""Who has come through a waypoint: the table of what is demanded of whom, and of what stays open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.model.identity import Identity
from agent.model.service import HealthPolicy, LoadBalancing, Service, WeightedWaypoint
from agent.model.workload import Health, Workload
from agent.state import passage
from agent.state.passage import Passages, bypassed, demanded
from tests.support import mesh

BY_NAME = mesh.gateway(mesh.key("waypoint"))
BY_VIP = mesh.gateway("10.0.9.1")
BY_ADDRESS = mesh.gateway("10.0.0.7")
WAYPOINT = mesh.identity("waypoint")
GUARD = mesh.service("waypoint", "10.0.9.1", ports={15008: 15008})
INSTANCE = mesh.workload(
    "waypoint-1", "10.0.0.7", service_account="waypoint", services={"waypoint": {15008: 15008}}
)
WEB = mesh.service("web", "10.0.9.2", waypoint=BY_NAME)


def server(**fields: Any) -> Workload:
    return mesh.workload("server", "10.0.0.1", **{"services": {"web": {80: 8080, 443: 8443}}, **fields})


def reason(
    destination: Workload, *others: Workload | Service, who: Identity | None, port: int = 8080, **asked: Any
) -> str:
    snapshot = mesh.snapshot(destination, *(others or (GUARD, INSTANCE, WEB)))
    connection = mesh.connection(destination=f"10.0.0.1:{port}", who=who)
    return bypassed(snapshot, connection, destination, **asked)


@pytest.mark.parametrize("where", [BY_NAME, BY_VIP, BY_ADDRESS], ids=["name", "vip", "address"])
def test_a_pod_with_a_waypoint_takes_nothing_that_has_not_come_through_it(where: Any) -> None:
    guarded = server(waypoint=where, services={})
    assert not reason(guarded, who=WAYPOINT)
    assert not reason(guarded, who=WAYPOINT, port=9999), "whatever port"
    assert "only, and this is spiffe://cluster.local/ns/apps/sa/other" in reason(
        guarded, who=mesh.identity("other")
    )
    assert reason(guarded, who=None).endswith("only, and this is plaintext")
    assert reason(guarded, who=mesh.identity("waypoint", namespace="other"))
    assert reason(guarded, who=mesh.identity("waypoint", trust_domain="elsewhere"))


def test_the_reason_names_pod_and_waypoint() -> None:
    assert reason(server(), who=None).startswith(
        f"apps/server is reached through waypoint apps/{mesh.host('waypoint')}:15008 only"
    )


@pytest.mark.parametrize(
    ("port", "is_guarded"), [(8080, True), (8443, True), (80, False), (9090, False)], ids=str
)
def test_a_service_guards_the_ports_it_leads_to(port: int, is_guarded: bool) -> None:
    assert bool(reason(server(), who=mesh.identity("other"), port=port)) is is_guarded
    assert not reason(server(), who=WAYPOINT, port=port)


def test_without_a_waypoint_any_way_will_do() -> None:
    plain = mesh.service("web", "10.0.9.2")
    assert not reason(server(), GUARD, INSTANCE, plain, who=None)
    assert not reason(server(services={"unknown": {80: 8080}}), who=None), "nobody knows of that Service"


def test_any_of_several_waypoints_will_do() -> None:
    other = mesh.workload("gate", "10.0.0.8", service_account="gate")
    guarded = server(waypoint=mesh.gateway("10.0.0.8"))
    for who in (WAYPOINT, mesh.identity("gate")):
        assert not reason(guarded, GUARD, INSTANCE, WEB, other, who=who)
    assert " or " in reason(guarded, GUARD, INSTANCE, WEB, other, who=None)


def test_the_weighted_ones_count_also_those_of_weight_0() -> None:
    other = mesh.workload("gate", "10.0.0.8", service_account="gate")
    weighted = (WeightedWaypoint(BY_NAME, 100), WeightedWaypoint(mesh.gateway("10.0.0.8"), 0))
    web = replace(WEB, waypoint=None, weighted_waypoints=weighted)
    for who in (WAYPOINT, mesh.identity("gate")):
        assert not reason(server(), GUARD, INSTANCE, web, other, who=who)
    assert reason(server(), GUARD, INSTANCE, web, other, who=mesh.identity("client"))


@pytest.mark.parametrize("where", [BY_NAME, BY_ADDRESS], ids=["name", "address"])
def test_an_instance_that_is_not_healthy_opens_nothing_and_finishes_what_it_has(where: Any) -> None:
    ill = replace(INSTANCE, status=Health.UNHEALTHY)
    guarded = server(waypoint=where, services={})
    guard = GUARD if where is BY_NAME else WEB
    assert reason(guarded, guard, ill, who=WAYPOINT)
    assert not reason(guarded, guard, ill, who=WAYPOINT, is_open=True)
    assert reason(guarded, guard, ill, who=mesh.identity("other"), is_open=True)


def test_a_waypoint_whose_service_serves_by_the_ill_too_opens_by_them() -> None:
    everyone = replace(GUARD, load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL))
    ill = replace(INSTANCE, status=Health.UNHEALTHY)
    assert not reason(server(), everyone, ill, WEB, who=WAYPOINT)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_waypoint_that_nobody_knows_lets_nobody_in(is_open: bool) -> None:
    assert reason(server(), WEB, who=WAYPOINT, is_open=is_open)
    assert reason(server(), WEB, GUARD, who=WAYPOINT, is_open=is_open), "no instance"


def test_a_waypoint_is_reached_by_everybody() -> None:
    guard = replace(GUARD, waypoint=BY_NAME)
    snapshot = mesh.snapshot(guard, INSTANCE)
    connection = mesh.connection(destination="10.0.0.7:15008", who=mesh.identity("client"))
    assert demanded(snapshot, INSTANCE, 15008) and not bypassed(snapshot, connection, INSTANCE)


def test_those_that_look_alike_are_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real: Callable[..., str] = bypassed

    def counted(*of: Any, **more: Any) -> str:
        asked.append(of)
        return real(*of, **more)

    monkeypatch.setattr(passage, "bypassed", counted)
    guarded = server()
    passages = Passages(mesh.snapshot(guarded, GUARD, INSTANCE, WEB))
    for source in range(100):
        theirs = mesh.connection(f"10.0.0.9:{4000 + source}", "10.0.0.1:8080", mesh.identity("other"))
        assert passages.bypassed(theirs, guarded.uid)
        assert not passages.bypassed(theirs._replace(identity=WAYPOINT), guarded.uid)
    assert len(asked) <= 2, "a compiled module calls its own function, past this count"
    assert not passages.bypassed(mesh.connection(who=None), "gone")
