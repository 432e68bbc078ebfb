"""Gaps as findings, in time: what is on its way, what is harmless, what somebody should look at."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from agent.mesh_state import MeshState
from agent.proof.findings import Link
from agent.state.apply import Batch
from agent.state.store import Store
from agent.telemetry import families
from agent.telemetry.metrics import Figures
from agent.watch.mesh_gaps import GRACE_S, MeshGaps
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION
from tests.support.mesh import deny, snapshot, workload

LISTED = ("apps/late", "apps/converted_peer_authentication_x")


class World:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.store = Store(snapshot(workload("web", "10.0.0.1", authorization_policies=LISTED)))
        self.mesh = MeshState(self.store, lambda message: None, lambda revision: asyncio.sleep(0))
        pod = SimpleNamespace(namespace="apps", name="web", service_account="default")
        captures = SimpleNamespace(pods={"apps/web": pod})
        self.gaps = MeshGaps(captures, self.mesh, lambda: self.now_s)  # type: ignore[arg-type]

    def findings(self) -> list[str]:
        found = asyncio.run(self.gaps())
        assert all(
            each.link is Link.CONTROL_PLANE and each.pod == "apps/web" and each.remedy for each in found
        )
        return [each.reason for each in found]


def test_what_is_missing_for_long_is_found_and_what_only_demands_an_identity_is_not() -> None:
    world = World()
    assert world.findings() == [], "it may be on its way"
    world.now_s += GRACE_S
    assert world.findings() == [
        "policy apps/late is listed by the workload but not received yet: everything to the pod is denied"
    ]
    assert {gap.resource: since for gap, since in world.gaps.now().items()} == dict.fromkeys(LISTED, 1000.0)
    world.store.apply(Batch(authorizations=(("apps/late", deny("late")),)))
    assert world.findings() == []


def test_two_pods_with_one_address_are_found_when_they_stay_so() -> None:
    world = World()
    twin = workload("twin", "10.0.0.1")
    world.store.apply(Batch((twin,), authorizations=(("apps/late", deny("late")),)))
    assert world.findings() == [], "one may be on its way out"
    world.now_s += GRACE_S
    (said,) = world.findings()
    assert twin.uid in said and "10.0.0.1 means apps/twin here" in said
    world.store.apply(Batch(removed_addresses=(twin.uid,)))
    assert world.findings() == []


def test_gaps_and_refused_resources_are_counted() -> None:
    world = World()
    asyncio.run(world.mesh.accept(ADDRESS, {"Kubernetes//Pod/apps/web": b"\xff"}, ()))
    figures = Figures()
    figures.ask(world.gaps.samples)
    values = {(name, *labels): value for name, labels, value in figures.items()}
    kinds = {key[1]: value for key, value in values.items() if key[0] == families.NOT_IN_FORCE.name}
    assert kinds == {
        "awaited": 2,
        "refused": 0,
        "update_refused": 0,
        "workload_refused": 1,
        "address_shared": 0,
    }
    assert values[families.XDS_REFUSED.name, ADDRESS] == 1
    assert values[families.XDS_REFUSED.name, AUTHORIZATION] == 0
