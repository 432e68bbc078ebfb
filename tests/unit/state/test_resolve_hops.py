"""Connections with a hop in between: waypoints (docs/WIRE.md#waypoints) and gateways of other networks."""

from __future__ import annotations

import pytest

from agent.model.address import NamespacedHostname
from agent.model.outcome import Outcome
from agent.model.route import Hop
from agent.model.service import LoadBalancing, Mode, WeightedWaypoint
from agent.model.workload import Health
from tests.support.mesh import gateway, identity, key, service, workload
from tests.support.routes import ENDPOINT, POD, WEB, brief, refusal, route

PASS = LoadBalancing(Mode.PASSTHROUGH)
HBONE = Hop.HBONE

# --- waypoints

WAYPOINT = workload("wp", "10.0.0.7", "fd00::7", service_account="wp", services={"wp": {15008: 15008}})
WAYPOINT_SERVICE = service("wp", "10.9.0.7", ports={15008: 15008}, subject_alt_names=(str(identity("wps")),))
BY_NAME, BY_VIP, BY_POD = gateway(key("wp")), gateway("10.9.0.7"), gateway("10.0.0.7")


@pytest.mark.parametrize("where", [BY_NAME, BY_VIP, BY_POD], ids=["hostname", "vip", "pod"])
def test_service_waypoint(where) -> None:
    web = service("web", "10.9.0.1", waypoint=where)
    found = route([web, ENDPOINT, WAYPOINT, WAYPOINT_SERVICE], "10.9.0.1:80")
    assert brief(found) == (HBONE, "10.0.0.7:15008", "10.9.0.1:80")
    extra = () if where is BY_POD else (identity("wps"),)
    assert found.accepted == (*extra, identity("wp"))
    assert (found.destination, found.service) == (WAYPOINT, web)


@pytest.mark.parametrize("where", [BY_NAME, BY_VIP, BY_POD], ids=["hostname", "vip", "pod"])
def test_workload_waypoint(where) -> None:
    behind = workload("b", "10.0.0.5", waypoint=where)
    found = route([behind, WAYPOINT, WAYPOINT_SERVICE], "10.0.0.5:80")
    assert brief(found) == (HBONE, "10.0.0.7:15008", "10.0.0.5:80")
    assert found.destination == WAYPOINT


def test_workload_waypoint_by_the_hostname_of_a_workload() -> None:
    vm = workload("vm", "10.0.0.8", hostname="wp.example.test")
    behind = workload("b", "10.0.0.5", waypoint=gateway(NamespacedHostname("apps", "wp.example.test"), 15010))
    assert brief(route([behind, vm], "10.0.0.5:80")) == (HBONE, "10.0.0.8:15010", "10.0.0.5:80")


@pytest.mark.parametrize(
    ("where", "destination", "expected"),
    [
        (BY_NAME, "[fd09::1]:80", "[fd00::7]:15008"),
        (BY_NAME, "10.9.0.1:80", "10.0.0.7:15008"),
        (BY_VIP, "[fd09::1]:80", "10.0.0.7:15008"),
        (gateway("fd00::7"), "10.9.0.1:80", "[fd00::7]:15008"),
    ],
)
def test_family_of_the_waypoint(where, destination: str, expected: str) -> None:
    web = service("web", "10.9.0.1", "fd09::1", waypoint=where)
    assert str(route([web, ENDPOINT, WAYPOINT, WAYPOINT_SERVICE], destination).target) == expected


def test_workload_waypoint_is_not_used_through_a_service() -> None:
    behind = workload("b", "10.0.0.5", waypoint=BY_POD, services={"web": {}})
    assert brief(route([WEB, behind, WAYPOINT], "10.9.0.1:80"))[1] == "10.0.0.5:15008"


@pytest.mark.parametrize("where", [BY_NAME, BY_VIP, BY_POD], ids=["hostname", "vip", "pod"])
def test_waypoint_itself_goes_on_to_the_workload(where) -> None:
    behind = workload("b", "10.0.0.5", waypoint=where)
    second = workload("wp2", "10.0.0.17", service_account="wp", services={"wp": {15008: 15008}})
    found = route([behind, WAYPOINT_SERVICE, second], "10.0.0.5:80", source=WAYPOINT)
    assert brief(found) == (HBONE, "10.0.0.5:15008", "10.0.0.5:80")


def test_identity_of_the_waypoint_alone_does_not_pass() -> None:
    behind = workload("b", "10.0.0.5", waypoint=BY_POD)
    impostor = workload("not-wp", "10.0.0.18", service_account="wp")
    assert brief(route([behind, WAYPOINT], "10.0.0.5:80", source=impostor))[1] == "10.0.0.7:15008"


@pytest.mark.parametrize("where", [BY_NAME, BY_VIP, BY_POD, gateway(key("wp"), 99)])
def test_waypoint_that_cannot_be_found_refuses(where) -> None:
    resources = [
        service("web", "10.9.0.1", waypoint=where),
        ENDPOINT,
        workload("b", "10.0.0.5", waypoint=where),
        WAYPOINT_SERVICE,
    ]
    for destination in ("10.9.0.1:80", "10.0.0.5:80"):
        refused = refusal(resources, destination)
        assert refused.outcome is Outcome.UNKNOWN_WAYPOINT
        assert "waypoint" in refused.detail


def test_waypoint_wins_over_passthrough_mode() -> None:
    web = service("web", "10.9.0.1", waypoint=BY_POD, load_balancing=PASS)
    assert brief(route([web, WAYPOINT], "10.9.0.1:80")) == (HBONE, "10.0.0.7:15008", "10.9.0.1:80")


def test_weighted_waypoints() -> None:
    canary = workload("canary", "10.0.0.8")
    never = gateway("10.0.0.66")

    def targets(*weights: int) -> set[str]:
        gateways = (gateway("10.0.0.7"), gateway("10.0.0.8"), never)
        weighted = tuple(WeightedWaypoint(g, w) for g, w in zip(gateways, weights, strict=False))
        web = service("web", "10.9.0.1", waypoint=gateway("10.0.0.7"), weighted_waypoints=weighted)
        return {str(route([web, WAYPOINT, canary], "10.9.0.1:80", seed=s).target.ip) for s in range(40)}

    assert targets(1, 1, 0) == {"10.0.0.7", "10.0.0.8"}
    assert targets(0, 1, 0) == {"10.0.0.8"}
    assert targets(0, 0, 0) == {"10.0.0.7"}
    assert targets() == {"10.0.0.7"}


# --- other networks

GATEWAY = workload("gw", "10.0.0.30", network="n2", service_account="gw")
REMOTE = workload("far", network="n2", network_gateway=gateway("n2/10.0.0.30", 15008), services={"web": {}})


def test_endpoint_in_another_network_goes_through_its_gateway() -> None:
    found = route([WEB, REMOTE, GATEWAY], "10.9.0.1:80")
    assert brief(found) == (Hop.DOUBLE_HBONE, "10.0.0.30:15008", "web.apps.svc.cluster.local:80")
    assert found.accepted == (identity("gw"),)
    assert found.inner_accepted == (identity("extra", "x"),)
    assert (found.destination, found.service) == (GATEWAY, WEB)


def test_gateway_behind_a_service() -> None:
    east_west = service("ew", "n2/10.9.2.2", ports={15008: 15010}, subject_alt_names=(str(identity("ews")),))
    gateway_pod = workload("gw", "10.0.0.30", network="n2", service_account="gw", services={"ew": {}})
    for where in (gateway(key("ew")), gateway("n2/10.9.2.2")):
        far = workload("far", network="n2", network_gateway=where, services={"web": {}})
        found = route([WEB, far, gateway_pod, east_west], "10.9.0.1:80")
        assert brief(found)[:2] == (Hop.DOUBLE_HBONE, "10.0.0.30:15010")
        assert found.accepted == (identity("ews"), identity("gw"))


def test_waypoint_in_another_network_goes_through_its_gateway() -> None:
    remote_waypoint = workload(
        "wp", "10.0.0.7", network="n2", network_gateway=gateway("n2/10.0.0.30"), services={"wp": {}}
    )
    web = service("web", "10.9.0.1", waypoint=BY_NAME)
    found = route([web, remote_waypoint, WAYPOINT_SERVICE, GATEWAY], "10.9.0.1:80")
    assert brief(found) == (Hop.DOUBLE_HBONE, "10.0.0.30:15008", "web.apps.svc.cluster.local:80")
    assert found.inner_accepted == (identity("wps"),)


@pytest.mark.parametrize(
    ("remote", "outcome"),
    [
        (
            workload(
                "f", "10.0.0.40", network="n2", network_gateway=gateway("n2/10.0.0.99"), services={"web": {}}
            ),
            Outcome.UNKNOWN_GATEWAY,
        ),
        (workload("f", "10.0.0.40", network="n2", services={"web": {}}), Outcome.UNKNOWN_GATEWAY),
        (workload("f", network="n2", services={"web": {}}), Outcome.NO_HEALTHY_UPSTREAM),
    ],
    ids=["gateway unknown", "gateway not named", "neither gateway nor address"],
)
def test_other_network_without_a_way_refuses(remote, outcome: Outcome) -> None:
    assert refusal([WEB, remote], "10.9.0.1:80").outcome is outcome


def test_failover_to_another_network() -> None:
    scopes = LoadBalancing(Mode.FAILOVER)
    web = service("web", "10.9.0.1", load_balancing=scopes)
    ill = workload("ep", "10.0.0.3", services={"web": {}}, status=Health.UNHEALTHY)
    assert route([web, ill, REMOTE, GATEWAY], "10.9.0.1:80").hop is Hop.DOUBLE_HBONE


def test_only_services_cross_networks() -> None:
    """A pod of network n2 on a node of the default network: its own pods are elsewhere for the lookup."""
    far_waypoint = workload("wp", "10.0.0.7", network="n2")
    behind = workload("b", "10.0.0.5", waypoint=gateway("n2/10.0.0.7"))
    assert refusal([behind, far_waypoint], "10.0.0.5:80").outcome is Outcome.NO_ROUTE_BETWEEN_NETWORKS


def test_lookup_of_the_upstream_is_in_the_network_of_the_source() -> None:
    abroad = workload("src", "10.0.0.9", network="n2")
    twin = workload("twin", "10.0.0.1", network="n2", service_account="twin")
    assert route([POD, twin], "10.0.0.1:80", source=abroad).destination == twin
    only_here = [service("web", "10.9.0.1"), ENDPOINT]
    assert refusal(only_here, "10.9.0.1:80", source=abroad).outcome is Outcome.NO_HEALTHY_UPSTREAM
