"""Live connections under change: who is closed, who is left alone."""

from __future__ import annotations

from agent.model.address import parse_ip
from agent.model.connection import Connection, Direction
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.model.steps import to_the_end
from agent.proxy.registry import Live, Registry
from agent.state.apply import Batch, Changes, apply
from tests.support import mesh

SERVER = mesh.workload("server", "10.0.0.2")
CLIENT = Identity("cluster.local", "apps", "client")
DENY = mesh.policy(
    "deny", Action.DENY, Match(principals=(StringMatch(StringMatchKind.SUFFIX, "/sa/client"),))
)


class Owner:
    """Remembers how it was asked to end."""

    def __init__(self, closed: list[Outcome]) -> None:
        self.closed = closed

    def close(self, outcome: Outcome, detail: str) -> None:
        self.closed.append(outcome)


def live(closed: list[Outcome], identity: Identity | None = CLIENT) -> Live:
    source, destination = mesh.at("10.0.0.1:4000"), mesh.at("10.0.0.2:80")
    return Live(
        Direction.INBOUND,
        parse_ip("10.0.0.2"),
        source,
        destination,
        destination,
        "HBONE",
        Owner(closed),
        destination_uid=SERVER.uid,
        connection=Connection(source, destination, identity),
    )


def test_a_new_policy_closes_what_it_denies_and_nothing_else() -> None:
    registry, denied, allowed = Registry(10), list[Outcome](), list[Outcome]()
    registry.add(live(denied))
    registry.add(live(allowed, Identity("cluster.local", "apps", "other")))
    snapshot, changes = apply(mesh.snapshot(SERVER), Batch(authorizations=(("apps/deny", DENY),)))
    assert to_the_end(registry.reevaluate(snapshot, changes)) == 1
    assert (denied, allowed) == ([Outcome.POLICY_CHANGED], [])


def test_the_current_workload_counts_not_the_one_at_the_start() -> None:
    registry, closed = Registry(10), list[Outcome]()
    registry.add(live(closed))
    lists_unknown = mesh.workload("server", "10.0.0.2", authorization_policies=("apps/coming",))
    snapshot, changes = apply(mesh.snapshot(SERVER), Batch(addresses=(lists_unknown,)))
    to_the_end(registry.reevaluate(snapshot, changes))
    assert closed == [Outcome.POLICY_CHANGED], "a policy that has not arrived denies"


def test_a_destination_that_vanishes_takes_its_connections_along() -> None:
    registry, closed = Registry(10), list[Outcome]()
    registry.add(live(closed))
    snapshot, changes = apply(mesh.snapshot(SERVER), Batch(removed_addresses=(SERVER.uid,)))
    to_the_end(registry.reevaluate(snapshot, changes))
    assert closed == [Outcome.POD_REMOVED]


def test_a_change_elsewhere_is_not_looked_at() -> None:
    registry, closed = Registry(10), list[Outcome]()
    registry.add(live(closed))
    assert to_the_end(registry.reevaluate(mesh.snapshot(), Changes(workloads=frozenset({"other"})))) == 0
    assert to_the_end(registry.reevaluate(mesh.snapshot(), Changes(services=frozenset({mesh.key("x")})))) == 0
    assert closed == []


def test_outbound_connections_are_ended_with_their_pod_only() -> None:
    registry, closed = Registry(10), list[Outcome]()
    outbound = live(closed)
    outbound.connection = None
    registry.add(outbound)
    snapshot, changes = apply(mesh.snapshot(SERVER), Batch(authorizations=(("apps/deny", DENY),)))
    to_the_end(registry.reevaluate(snapshot, changes))
    assert closed == []
    registry.close_pod(frozenset([parse_ip("10.0.0.2")]))
    assert closed == [Outcome.POD_REMOVED]


WAYPOINT = mesh.workload("waypoint", "10.0.0.7", service_account="waypoint")
THROUGH = WAYPOINT.identity
GUARDED = mesh.workload("server", "10.0.0.2", services={"web": {80: 80}})


def test_a_service_that_takes_a_waypoint_closes_what_has_not_come_through_it() -> None:
    registry, past, through = Registry(10, enforces_waypoint=True), list[Outcome](), list[Outcome]()
    registry.add(live(past))
    registry.add(live(through, THROUGH))
    web = mesh.service("web", waypoint=mesh.gateway("10.0.0.7"))
    before = mesh.snapshot(GUARDED, WAYPOINT, mesh.service("web"))
    snapshot, changes = apply(before, mesh.batch(web))
    assert not changes.workloads
    assert to_the_end(registry.reevaluate(snapshot, changes)) == 1
    assert (past, through) == ([Outcome.WAYPOINT_BYPASSED], [])
    assert to_the_end(Registry(10).reevaluate(snapshot, changes)) == 0, "where it is not enforced"


def test_a_waypoint_that_is_removed_takes_along_what_came_through_it() -> None:
    registry, through = Registry(10, enforces_waypoint=True), list[Outcome]()
    registry.add(live(through, THROUGH))
    web = mesh.service("web", waypoint=mesh.gateway("10.0.0.7"))
    before = mesh.snapshot(GUARDED, WAYPOINT, web)
    to_the_end(registry.reevaluate(*apply(before, mesh.batch(mesh.workload("other", "10.0.0.8")))))
    assert through == []
    to_the_end(registry.reevaluate(*apply(before, Batch(removed_addresses=(WAYPOINT.uid,)))))
    assert through == [Outcome.WAYPOINT_BYPASSED]
