"""Several real Envoys as waypoints of one Service, by their weights, and one that another namespace has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import pytest

from agent.model.service import WeightedWaypoint
from tests.support import envoy, mesh
from tests.support.two_nodes import SERVER, VIP, ended
from tests.support.waypoint import CLIENT_ID, WAYPOINT, WAYPOINT_ID, Behind, By, ask, behind_a_waypoint

pytestmark = pytest.mark.envoy
ASKED = 24
INFRA_ID = "spiffe://cluster.local/ns/infra/sa/waypoint"


def came_to(waypoint: envoy.Envoy) -> int:
    """Tunnels it was asked for."""
    return waypoint.stat("http.tunnels.downstream_rq_total")


@contextlib.contextmanager
def with_a_canary() -> Iterator[tuple[Behind, envoy.Envoy]]:
    with behind_a_waypoint() as world:
        issued = world.ca.issue(WAYPOINT_ID)
        with envoy.run(WAYPOINT, world.ca, issued, CLIENT_ID) as canary:
            yield world, canary


def weigh(world: Behind, *weights: tuple[envoy.Envoy, int]) -> None:
    """What the control plane says of the Service from now on."""
    chosen = tuple(WeightedWaypoint(mesh.gateway(*each.listen), weight) for each, weight in weights)
    primary = chosen[0].waypoint
    web = mesh.service("web", VIP, waypoint=primary, weighted_waypoints=chosen)
    world.driver.call(partial(world.here.know, web))


def test_new_connections_are_shared_out_by_weight() -> None:
    with with_a_canary() as (world, canary):
        weigh(world, (world.waypoint, 1), (canary, 1))
        assert {ask(world) for _ in range(ASKED)} == {(200, "v1")}
        shares = came_to(world.waypoint), came_to(canary)
        assert sum(shares) == ASKED and min(shares) >= ASKED // 6, shares
        weigh(world, (world.waypoint, 0), (canary, 100))
        assert {ask(world) for _ in range(ASKED)} == {(200, "v1")}
        assert (came_to(world.waypoint), came_to(canary)) == (shares[0], shares[1] + ASKED)


def test_one_that_is_chosen_and_is_not_there_has_nobody_in_its_place() -> None:
    with with_a_canary() as (world, canary):
        canary.process.kill()
        canary.process.wait()
        weigh(world, (world.waypoint, 0), (canary, 100))
        assert ended(world.connect(f"{VIP}:80"))
        assert not came_to(world.waypoint) and not world.versions["v1"].asked


@pytest.mark.parametrize("by", [By.ADDRESS, By.SERVICE], ids=lambda by: by.name)
def test_one_of_another_namespace_is_known_by_its_own_account(by: By) -> None:
    with behind_a_waypoint(by=by, namespace="infra", identity=INFRA_ID) as world:
        assert ask(world) == (200, "v1")
        world.driver.until(lambda: bool(world.here.lines))
        assert f'dst.identity="{INFRA_ID}"' in world.here.lines[0]


def test_an_account_of_that_name_here_is_not_taken_for_it() -> None:
    with behind_a_waypoint(by=By.SERVICE, namespace="infra", identity=WAYPOINT_ID) as world:
        assert ended(world.connect(f"{VIP}:80"))
        world.driver.until(lambda: bool(world.here.lines))
        assert "ns/apps/sa/waypoint" in world.here.lines[0] and not came_to(world.waypoint)


def test_where_that_is_enforced_one_of_another_namespace_is_the_way_in() -> None:
    with behind_a_waypoint(
        by=By.SERVICE, of_pod=True, namespace="infra", identity=INFRA_ID, enforce_waypoint="true"
    ) as world:
        assert ask(world, f"{SERVER}:8080") == (200, "v1")
