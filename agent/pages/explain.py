"""`/explain`: what this node would do with a connection, and why: route and policy, by the state that it judges by.

Dials nothing and asks nobody: a host name stands for what it did when it was looked up last. An address names a
workload here as it does to workers; who a peer would prove to be is taken from the control plane's word on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from agent.admin.server import BadRequest, Request, Response, as_json
from agent.config import Config
from agent.model.address import AddressError, SocketAddress
from agent.model.connection import Connection
from agent.model.outcome import Refusal
from agent.model.route import Hop, Route
from agent.model.workload import TunnelProtocol, Workload
from agent.pages.limits import bound_fields, name_of
from agent.policy.explain import Explanation, PolicyReport, explain
from agent.state.host_names import NamedHosts, NotLookedUp
from agent.state.resolve import Options, resolve
from agent.state.snapshot import Snapshot
from agent.state.store import Store

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExplainPage:
    settings: Config
    store: Store
    names: Callable[[], NamedHosts]

    async def __call__(self, request: Request) -> Response:
        try:
            source, destination = (
                SocketAddress.parse(request.query.get(name, "")) for name in ("source", "destination")
            )
        except AddressError as error:
            raise BadRequest(f"source and destination: {error}") from error
        return as_json(explained(self.store.current, self.settings, source, destination, self.names()))


def explained(
    snapshot: Snapshot,
    settings: Config,
    source: SocketAddress,
    destination: SocketAddress,
    names: NamedHosts,
) -> Row:
    """Who both are, the route of a pod's dial, and the policies of the pod that is reached.

    `names`: as workers were told of them. `is_pending`: the refusal is for want of a look-up's answer.
    """
    client = snapshot.workload_at(settings.network, source.ip)
    answer: Row = {
        "source": _named(client),
        "is_source_here": client is not None and snapshot.is_local(client),
        "route": None,
        "refusal": "",
        "is_pending": False,
        "destination": _named(snapshot.workload_at(settings.network, destination.ip)),
        "policy": None,
    }
    if client is None:
        reached = snapshot.workload_at(settings.network, destination.ip)
        return answer | {
            "policy": _judged(snapshot, Connection(source, destination, None, settings.network), reached)
        }
    options = Options(
        network=settings.network,
        names=names,
        mesh_cidrs=settings.mesh_cidrs,
        refuse_unknown=settings.unknown_destination == "refuse",
        is_partial=settings.on_demand,
    )
    try:
        route = resolve(snapshot, client, destination, Random(), options)
    except Refusal as refusal:
        return answer | {"refusal": str(refusal), "is_pending": isinstance(refusal, NotLookedUp)}
    return (
        answer
        | {"route": _route(route), "destination": _named(route.destination)}
        | _policy(snapshot, settings, source, client, route)
    )


def _policy(
    snapshot: Snapshot, settings: Config, source: SocketAddress, client: Workload, route: Route
) -> Row:
    """Judged where the application is: a waypoint or a gateway judges by itself what goes through it."""
    authority = (
        SocketAddress.parse(route.authority) if route.authority and route.hop is Hop.HBONE else route.target
    )
    reached = route.destination
    if route.hop is Hop.DOUBLE_HBONE or reached is None or authority.ip not in reached.addresses:
        return {"policy": None}
    is_proven = route.hop is Hop.HBONE and client.protocol is TunnelProtocol.HBONE
    connection = Connection(source, authority, client.identity if is_proven else None, settings.network)
    return {"policy": _judged(snapshot, connection, reached)}


def _judged(snapshot: Snapshot, connection: Connection, reached: Workload | None) -> Row | None:
    if reached is None:
        return None
    found = explain(connection, reached, snapshot)
    return {
        "allowed": found.allowed,
        "reason": found.reason,
        "identity": str(connection.identity) if connection.identity is not None else "",
        "at": str(connection.destination),
        "policies": [_report(each) for each in found.policies],
        "missing": _missing(found),
        "limits": _limits(snapshot, connection, reached),
    }


def _limits(snapshot: Snapshot, connection: Connection, reached: Workload) -> Row | None:
    """What holds for this client at that pod, beside what its node alone knows: how many connections it has."""
    fields = bound_fields(reached, connection)
    return (
        {"pod": name_of(reached), "is_here": snapshot.is_local(reached), **fields} if fields["by"] else None
    )


def _report(report: PolicyReport) -> Row:
    """A policy, and of each rule what did not hold of it."""
    return {
        "policy": report.policy,
        "scope": report.scope.value,
        "action": report.action.value,
        "dry_run": report.dry_run,
        "matched": report.matched,
        "rules": [
            {
                "matched": rule.matched,
                "failed": sorted(
                    {name for clause in rule.clauses for match in clause.matches for name in match.failed}
                ),
            }
            for rule in report.rules
        ],
    }


def _missing(found: Explanation) -> list[Row]:
    return [{"policy": each.name, "reason": each.reason} for each in found.missing]


def _route(route: Route) -> Row:
    return {
        "hop": route.hop.value,
        "target": str(route.target),
        "authority": route.authority or "",
        "accepted": list(map(str, route.accepted)),
        "service": str(route.service.key) if route.service is not None else "",
        "hostname": route.hostname,
    }


def _named(workload: Workload | None) -> Row | None:
    if workload is None:
        return None
    return {
        "workload": f"{workload.namespace}/{workload.name}",
        "identity": str(workload.identity),
        "node": workload.node,
        "protocol": workload.protocol.value,
        "health": workload.status.value,
    }
