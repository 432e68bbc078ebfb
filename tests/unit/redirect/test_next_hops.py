"""Where a pod on a bridge sends its packets, judged on its routes: one row for each shape that CNIs make."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import pytest

from redirect.next_hops import NodeEnd, Way, way_of
from redirect.routes import Route

POD, POD6 = ip_address("10.88.0.11"), ip_address("fd88::11")
GATEWAY, OTHER, GATEWAY6 = ip_address("10.88.0.1"), ip_address("10.88.0.2"), ip_address("fe80::1")
BRIDGE, ROUTER, ROUTER6 = (bytes.fromhex(f"02000000000{number}") for number in (1, 2, 3))
NODE, ELSEWHERE = NodeEnd(BRIDGE, frozenset({GATEWAY, GATEWAY6})), NodeEnd(BRIDGE)
KNOWN = {GATEWAY: ROUTER, GATEWAY6: ROUTER6}


def route(network: str, gateway: object = None, metric: int = 0) -> Route:
    return Route(ip_network(network), 2, None if gateway is None else ip_address(str(gateway)), metric)


CONNECTED, DEFAULT = route("10.88.0.0/24"), route("0.0.0.0/0", GATEWAY)
SIX = (route("fd88::/64"), route("fe80::/64"), route("ff00::/8"), route("::/0", GATEWAY6))

WAYS = {
    "the node is the gateway": ([CONNECTED, DEFAULT], NODE, Way(BRIDGE, None, 24)),
    "another machine is": ([CONNECTED, DEFAULT], ELSEWHERE, Way(ROUTER, GATEWAY, 24)),
    "routes to services by the same gateway": (
        [CONNECTED, DEFAULT, route("10.96.0.0/12", GATEWAY)],
        ELSEWHERE,
        Way(ROUTER, GATEWAY, 24),
    ),
    "no gateway": ([CONNECTED], NODE, Way(prefix_bits=24)),
    "no route at all": ([], NODE, Way(prefix_bits=32)),
    "a gateway off the link, and the route that names it": (
        [route("169.254.1.1/32"), route("0.0.0.0/0", "169.254.1.1")],
        NodeEnd(BRIDGE, frozenset({ip_address("169.254.1.1")})),
        Way(BRIDGE, None, 32),
    ),
    "a gateway beside the link, and the route that names it": (
        [CONNECTED, route("10.99.0.1/32"), route("0.0.0.0/0", "10.99.0.1")],
        NodeEnd(BRIDGE, frozenset({ip_address("10.99.0.1")})),
        Way(BRIDGE, None, 24),
    ),
    "everything is near": ([route("0.0.0.0/0")], NODE, Way(prefix_bits=0)),
    "a part of the near, said twice": (
        [CONNECTED, route("10.88.0.128/25"), DEFAULT],
        NODE,
        Way(BRIDGE, None, 24),
    ),
    "the default route of the least metric": (
        [CONNECTED, route("0.0.0.0/0", OTHER, 200), route("0.0.0.0/0", GATEWAY, 100)],
        ELSEWHERE,
        Way(ROUTER, GATEWAY, 24),
    ),
    "two addresses of the node": (
        [CONNECTED, DEFAULT, route("10.96.0.0/12", OTHER)],
        NodeEnd(BRIDGE, frozenset({GATEWAY, OTHER})),
        Way(BRIDGE, None, 24),
    ),
    "nobody answered": (
        [CONNECTED, route("0.0.0.0/0", OTHER)],
        ELSEWHERE,
        Way(prefix_bits=24, unknown=OTHER),
    ),
}


@pytest.mark.parametrize(("routes", "node", "expected"), WAYS.values(), ids=WAYS.keys())
def test_where_packets_go(routes: Iterable[Route], node: NodeEnd, expected: Way) -> None:
    assert way_of([POD], [*routes, *SIX], node, KNOWN) == expected


def test_families_are_apart() -> None:
    routes = [CONNECTED, DEFAULT, *SIX]
    assert way_of([POD6], routes, ELSEWHERE, KNOWN) == Way(ROUTER6, GATEWAY6, 64)
    assert way_of([POD6], routes, NODE, {}) == Way(BRIDGE, None, 64)


def test_the_subnet_of_an_address_that_is_not_served_is_no_obstacle() -> None:
    second = ip_address("10.99.0.7")
    routes = [CONNECTED, route("10.99.0.0/16"), DEFAULT]
    assert way_of([POD, second], routes, ELSEWHERE, KNOWN) == Way(ROUTER, GATEWAY, 24)


REFUSED = {
    "two gateways": (
        [CONNECTED, DEFAULT, route("10.96.0.0/12", OTHER)],
        "more than one gateway (10.88.0.1, 10.88.0.2)",
    ),
    "two ways of one route": (
        [CONNECTED, DEFAULT, route("0.0.0.0/0", OTHER)],
        "more than one gateway (10.88.0.1, 10.88.0.2)",
    ),
    "a second network": (
        [CONNECTED, route("10.99.0.0/16"), DEFAULT],
        "reaches 10.99.0.0/16 without a gateway",
    ),
    "a neighbour elsewhere": (
        [CONNECTED, route("10.99.0.7/32"), DEFAULT],
        "reaches 10.99.0.7/32 without a gateway",
    ),
}


@pytest.mark.parametrize(("routes", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_followed_is_refused_with_a_remedy(routes: Iterable[Route], reason: str) -> None:
    found = way_of([POD], routes, ELSEWHERE, KNOWN)
    assert reason in found.refusal and "give the pod" in found.refusal
