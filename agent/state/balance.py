"""Which endpoint of a service gets a connection: docs/WIRE.md#balancing, and the port it gets it on.

Pure: the random generator comes in. Every draw is weighted by capacity; there is no memory between draws,
no retry and no stickiness. Whether the endpoint is then reached directly is decided in `resolve`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from enum import Enum
from itertools import accumulate
from random import Random

from agent.model.service import Mode, Scope, Service
from agent.model.workload import Workload
from agent.state.endpoints import Endpoint, Endpoints, Group


class Purpose(Enum):
    """What the service is looked up for: it may lack the port if it is a waypoint behind a tunnel."""

    STANDARD = "standard"
    WAYPOINT = "waypoint"


ATTRIBUTES: dict[Scope, Callable[[Workload], str]] = {
    Scope.REGION: lambda w: w.locality.region,
    Scope.ZONE: lambda w: w.locality.zone,
    Scope.SUBZONE: lambda w: w.locality.subzone,
    Scope.NODE: lambda w: w.node,
    Scope.CLUSTER: lambda w: w.cluster_id,
    Scope.NETWORK: lambda w: w.network,
}


def choose(
    source: Workload, service: Service, endpoints: Endpoints, port: int, purpose: Purpose, rng: Random
) -> Endpoint | None:
    """An endpoint for a connection of `source` to a port of the service, or None if none can take it."""

    def fits(endpoint: Endpoint) -> bool:
        return is_reachable(source, endpoint.workload) and has_port(service, endpoint, port, purpose)

    if service.load_balancing.mode is Mode.STANDARD:
        # A draw from all that fits is a draw from those that fit; only a miss costs a walk over all.
        first = _draw(endpoints, rng)
        if first is None or fits(first):
            return first
    groups = _preferred(source, service, [group for group in endpoints.groups if fits(group.one)])
    return _draw_of(endpoints, groups, rng)


def is_reachable(source: Workload, workload: Workload) -> bool:
    """It has an address or a hostname, or a gateway leads to its network."""
    if workload.addresses or workload.hostname:
        return True
    return workload.network != source.network and workload.network_gateway is not None


def has_port(service: Service, endpoint: Endpoint, port: int, purpose: Purpose) -> bool:
    if purpose is Purpose.STANDARD:
        declared = service.ports.get(port)
        return declared is not None and (declared > 0 or endpoint.ports.get(port, 0) > 0)
    tunnelled = endpoint.workload.application_tunnel is not None
    return (port in service.ports or tunnelled) and target_port(service, endpoint, port) is not None


def target_port(service: Service, endpoint: Endpoint, port: int) -> int | None:
    """The endpoint's port for a port of the service; None where nothing says which it is."""
    mapped = endpoint.ports.get(port, 0) or service.ports.get(port, 0)
    if mapped:
        return mapped
    tunnel = endpoint.workload.application_tunnel
    return port if tunnel is not None and tunnel.port is not None else None


def _preferred(source: Workload, service: Service, groups: list[Group]) -> list[Group]:
    """Those of the best rank under the service's preferences; all of them in other modes."""
    balancing = service.load_balancing
    if balancing.mode not in (Mode.STRICT, Mode.FAILOVER):
        return groups
    scopes = balancing.preferences
    if balancing.mode is Mode.STRICT:
        return [g for g in groups if all(_is_equal(source, g.one.workload, s) for s in scopes)]
    ranks = [rank(source, g.one.workload, scopes) for g in groups]
    best = max(ranks, default=0)
    return [g for g, r in zip(groups, ranks, strict=True) if r == best]


def rank(source: Workload, workload: Workload, scopes: tuple[Scope, ...]) -> int:
    """How many preferences match in order before the first that does not.

    Where the first preference is the network, another network does not end the count, and the own one
    outweighs all that can follow: remote endpoints stay ordered among themselves.
    """
    count = 0
    for place, scope in enumerate(scopes):
        is_first_network = place == 0 and scope is Scope.NETWORK
        if _is_equal(source, workload, scope):
            count += len(scopes) if is_first_network else 1
        elif not is_first_network:
            break
    return count


def _is_equal(source: Workload, workload: Workload, scope: Scope) -> bool:
    attribute = ATTRIBUTES[scope]
    return attribute(source) == attribute(workload)


def _draw(endpoints: Endpoints, rng: Random) -> Endpoint | None:
    """One endpoint, weighted by capacity; None when there is no capacity at all."""
    total = endpoints.totals[-1] if endpoints.totals else 0
    if total == 0:
        return None
    return endpoints.all[bisect_right(endpoints.totals, rng.randrange(total))]


def _draw_of(endpoints: Endpoints, groups: list[Group], rng: Random) -> Endpoint | None:
    """The same, of those in some groups."""
    totals = list(accumulate(g.one.workload.capacity * len(g.members) for g in groups))
    if not totals or totals[-1] == 0:
        return None
    drawn = rng.randrange(totals[-1])
    index = bisect_right(totals, drawn)
    group = groups[index]
    behind = totals[index] - drawn - 1
    return endpoints.all[group.members[behind // group.one.workload.capacity]]


def weighted_index(weights: tuple[int, ...], rng: Random) -> int | None:
    """An index drawn by weight; weight 0 is never drawn, and nothing is when all are 0."""
    totals = tuple(accumulate(weights))
    if not totals or totals[-1] == 0:
        return None
    return bisect_right(totals, rng.randrange(totals[-1]))
