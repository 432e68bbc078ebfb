"""Who gets the connection: ranks and their quirk, weights, ports (docs/WIRE.md#balancing)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from random import Random

import pytest

from agent.model.service import LoadBalancing, Mode, Scope, Service
from agent.model.workload import ApplicationTunnel, Locality, TunnelToApplication, Workload
from agent.state.balance import Purpose, choose, rank, target_port, weighted_index
from agent.state.endpoints import Endpoint, Endpoints
from tests.support.mesh import gateway, service, snapshot, workload

REGION, ZONE, SUBZONE, NODE, NETWORK = Scope.REGION, Scope.ZONE, Scope.SUBZONE, Scope.NODE, Scope.NETWORK
TUNNEL = ApplicationTunnel(TunnelToApplication.PROXY, 15088)
PORTLESS_TUNNEL = ApplicationTunnel(TunnelToApplication.NONE, None)


def placed(name: str, region: str = "", zone: str = "", **fields) -> Workload:
    return workload(name, "10.0.0.1", locality=Locality(region, zone), **fields)


SOURCE = placed("src", "r1", "z1")
HERE = placed("here", "r1", "z1")
SAME_REGION = placed("region", "r1", "z2", node="n2")
FAR = placed("far", "r2", "z1", node="n2")
REMOTE_HERE = placed("remote-here", "r1", "z1", network="n2", network_gateway=gateway("n2/9.9.9.9"))
REMOTE_FAR = placed("remote-far", "r2", "z9", network="n2", network_gateway=gateway("n2/9.9.9.9"))


def winners(
    workloads: list[Workload],
    balanced: Service,
    *,
    ports: dict[int, int] | None = None,
    port: int = 80,
    purpose: Purpose = Purpose.STANDARD,
) -> set[str]:
    def names(endpoints: Endpoints) -> set[str]:
        rng = Random(7)
        found = (choose(SOURCE, balanced, endpoints, port, purpose, rng) for _ in range(150))
        return {e.workload.name for e in found if e}

    linked = [dataclasses.replace(w, services={balanced.key: ports or {}}) for w in workloads]
    given = names(Endpoints.of(Endpoint(w, ports or {}) for w in workloads))
    assert names(snapshot(balanced, *linked).endpoints(balanced.key)) == given
    return given


def balanced(mode: Mode, *preferences: Scope) -> Service:
    return service("web", load_balancing=LoadBalancing(mode, preferences))


@pytest.mark.parametrize(
    ("mode", "preferences", "workloads", "expected"),
    [
        (Mode.STANDARD, (REGION,), [HERE, FAR], {"here", "far"}),
        (Mode.FAILOVER, (), [HERE, FAR], {"here", "far"}),
        (Mode.FAILOVER, (REGION, ZONE), [HERE, SAME_REGION, FAR], {"here"}),
        (Mode.FAILOVER, (REGION, ZONE), [SAME_REGION, FAR], {"region"}),
        (Mode.FAILOVER, (REGION, ZONE), [FAR], {"far"}),
        (Mode.FAILOVER, (ZONE, REGION), [SAME_REGION, FAR], {"far"}),
        (Mode.FAILOVER, (SUBZONE,), [HERE, FAR], {"here", "far"}),  # empty equals empty
        (Mode.FAILOVER, (NODE,), [HERE, FAR], {"here"}),
        (Mode.STRICT, (REGION, ZONE), [HERE, SAME_REGION, FAR], {"here"}),
        (Mode.STRICT, (REGION, ZONE), [SAME_REGION, FAR], set()),
        (Mode.STRICT, (REGION,), [SAME_REGION, HERE, FAR], {"region", "here"}),
        (Mode.STRICT, (), [HERE, FAR], {"here", "far"}),
        # The network first: own network always, and the others still by locality.
        (Mode.FAILOVER, (NETWORK, REGION, ZONE), [FAR, REMOTE_HERE], {"far"}),
        (Mode.FAILOVER, (NETWORK, REGION, ZONE), [REMOTE_FAR, REMOTE_HERE], {"remote-here"}),
        (Mode.FAILOVER, (NETWORK, REGION, ZONE), [HERE, FAR, REMOTE_HERE], {"here"}),
        (Mode.STRICT, (NETWORK, REGION), [REMOTE_HERE, REMOTE_FAR], set()),
        (Mode.STRICT, (NETWORK, REGION), [REMOTE_HERE, SAME_REGION], {"region"}),
        # Anywhere else it is an attribute like any other.
        (Mode.FAILOVER, (REGION, NETWORK, ZONE), [FAR, REMOTE_HERE], {"remote-here"}),
        (Mode.PASSTHROUGH, (REGION,), [HERE, FAR], {"here", "far"}),
    ],
)
def test_preferences(
    mode: Mode, preferences: tuple[Scope, ...], workloads: list[Workload], expected: set[str]
) -> None:
    assert winners(workloads, balanced(mode, *preferences)) == expected


def test_rank_counts_until_the_first_mismatch() -> None:
    scopes = (REGION, ZONE, NODE)
    assert [rank(SOURCE, w, scopes) for w in (HERE, SAME_REGION, FAR)] == [3, 1, 0]
    assert rank(SOURCE, REMOTE_HERE, (NETWORK, REGION, ZONE)) == 2
    assert rank(SOURCE, FAR, (NETWORK, REGION, ZONE)) == 3


NO_ADDRESS = workload("none")
NAMED_HOST = workload("named", hostname="db.example.test")
OVER_GATEWAY = workload("behind", network="n2", network_gateway=gateway("n2/9.9.9.9"))
NO_GATEWAY = workload("lost", network="n2")
WITH_GATEWAY_HERE = workload("local-gateway", network_gateway=gateway("9.9.9.9"))


@pytest.mark.parametrize(
    ("candidate", "usable"),
    [
        (NO_ADDRESS, False),
        (NAMED_HOST, True),
        (OVER_GATEWAY, True),
        (NO_GATEWAY, False),
        (WITH_GATEWAY_HERE, False),
    ],
    ids=lambda v: v.name if isinstance(v, Workload) else None,
)
@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.FAILOVER])
def test_endpoint_without_address(candidate: Workload, usable: bool, mode: Mode) -> None:
    assert winners([candidate], balanced(mode)) == ({candidate.name} if usable else set())
    assert winners([candidate, HERE], balanced(mode)) >= {"here"}


@pytest.mark.parametrize(
    ("ports", "mapping", "tunnel", "purpose", "expected"),
    [
        ({80: 8080}, {}, None, Purpose.STANDARD, 8080),
        ({80: 8080}, {80: 9090}, None, Purpose.STANDARD, 9090),
        ({80: 0}, {80: 9090}, None, Purpose.STANDARD, 9090),
        ({80: 0}, {}, None, Purpose.STANDARD, None),
        ({80: 0}, {}, TUNNEL, Purpose.STANDARD, None),
        ({81: 8080}, {}, None, Purpose.STANDARD, None),
        ({81: 8080}, {80: 9090}, None, Purpose.STANDARD, None),
        ({}, {}, TUNNEL, Purpose.STANDARD, None),
        ({80: 8080}, {}, None, Purpose.WAYPOINT, 8080),
        ({}, {}, None, Purpose.WAYPOINT, None),
        ({}, {}, TUNNEL, Purpose.WAYPOINT, 80),
        ({}, {}, PORTLESS_TUNNEL, Purpose.WAYPOINT, None),
        ({80: 0}, {}, TUNNEL, Purpose.WAYPOINT, 80),
        ({80: 8080}, {}, TUNNEL, Purpose.WAYPOINT, 8080),
    ],
)
def test_ports(
    ports: dict[int, int],
    mapping: dict[int, int],
    tunnel: ApplicationTunnel | None,
    purpose: Purpose,
    expected: int | None,
) -> None:
    web = service("web", ports=ports)
    endpoint = Endpoint(workload("w", "10.0.0.1", application_tunnel=tunnel), mapping)
    chosen = choose(SOURCE, web, Endpoints.of([endpoint]), 80, purpose, Random(1))
    assert (chosen and target_port(web, chosen, 80)) == expected


def test_endpoint_without_the_named_port_is_never_picked() -> None:
    web = service("web", ports={80: 0})
    serving = Endpoint(workload("serving", "10.0.0.1"), {80: 8080})
    other = Endpoint(workload("other", "10.0.0.2", capacity=50), {81: 8081})
    endpoints, rng = Endpoints.of([other, serving]), Random(3)
    picks = [choose(SOURCE, web, endpoints, 80, Purpose.STANDARD, rng) for _ in range(50)]
    assert all(pick is serving for pick in picks)


@pytest.mark.parametrize("mode", [Mode.STRICT, Mode.FAILOVER])
def test_endpoints_that_are_alike_are_ranked_as_one_and_drawn_one_by_one(mode: Mode) -> None:
    web = balanced(mode, ZONE)

    def placed_pods(names: str, zone: str, **fields) -> list[Workload]:
        links = {web.key: {80: 8080}}
        return [placed(name, "r1", zone, services=links, **fields) for name in names]

    here = [
        *placed_pods("abc", "z1"),
        *placed_pods("d", "z1", capacity=3),
        *placed_pods("e", "z1", capacity=0),
    ]
    lost = [dataclasses.replace(w, addresses=()) for w in placed_pods("f", "z1")]
    endpoints = snapshot(web, *here, *placed_pods("xyz", "z2"), *lost).endpoints(web.key)
    assert len(endpoints.all) == 9 and sorted(len(g.members) for g in endpoints.groups) == [1, 1, 1, 3, 3]
    rng = Random(5)
    drawn: Counter[str] = Counter()
    for _ in range(3000):
        pick = choose(SOURCE, web, endpoints, 80, Purpose.STANDARD, rng)
        assert pick is not None
        drawn[pick.workload.name] += 1
    assert set(drawn) == set("abcd")
    assert all(400 < drawn[name] < 600 for name in "abc") and 1350 < drawn["d"] < 1650


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.FAILOVER])
def test_draw_is_weighted_by_capacity_also_after_a_miss(mode: Mode) -> None:
    """In standard mode unusable endpoints are drawn first and drawn again: the weights must not shift."""
    capacities = {"a": 1, "b": 3, "none": 4, "zero": 0}
    endpoints = Endpoints.of(
        Endpoint(workload(name, *([] if name == "none" else ["10.0.0.1"]), capacity=capacity), {})
        for name, capacity in capacities.items()
    )
    rng = Random(11)
    drawn: Counter[str] = Counter()
    for _ in range(4000):
        pick = choose(SOURCE, balanced(mode), endpoints, 80, Purpose.STANDARD, rng)
        assert pick is not None
        drawn[pick.workload.name] += 1
    assert set(drawn) == {"a", "b"}
    assert 0.71 < drawn["b"] / 4000 < 0.79


def test_no_capacity_at_all_is_no_endpoint() -> None:
    assert winners([placed("w", capacity=0)], balanced(Mode.STANDARD)) == set()
    assert winners([placed("w", capacity=0)], balanced(Mode.FAILOVER)) == set()


def test_weighted_index() -> None:
    rng = Random(5)
    assert weighted_index((), rng) is None
    assert weighted_index((0, 0), rng) is None
    assert {weighted_index((0, 2, 0, 1, 0), rng) for _ in range(100)} == {1, 3}
