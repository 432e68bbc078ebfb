"""Builders of mesh values for tests: short to write, everything not named is ordinary.

Workloads are HBONE pods of namespace `apps` on node `n1`; services get `NAME.NAMESPACE.svc.cluster.local`.
"""

from __future__ import annotations

import itertools
from typing import Any

from agent.model.address import NamespacedHostname, NetworkAddress, SocketAddress, parse_ip
from agent.model.connection import Connection
from agent.model.identity import Identity
from agent.model.policy import (
    Action,
    Authorization,
    Clause,
    Match,
    RefusedPolicy,
    Rule,
    Scope,
    StringMatch,
    StringMatchKind,
)
from agent.model.service import Service
from agent.model.workload import GatewayAddress, TunnelProtocol, Workload
from agent.state.apply import Batch, apply
from agent.state.snapshot import Snapshot


def host(name: str, namespace: str = "apps") -> str:
    return f"{name}.{namespace}.svc.cluster.local"


def key(name: str, namespace: str = "apps") -> NamespacedHostname:
    return NamespacedHostname(namespace, host(name, namespace))


def at(text: str) -> SocketAddress:
    return SocketAddress.parse(text)


def workload(
    name: str, *addresses: str, namespace: str = "apps", kind: str = "Pod", **fields: Any
) -> Workload:
    """`services={"web": {80: 8080}}` links to `web` of the same namespace; keys may be full ones."""
    links = fields.pop("services", {})
    fields.setdefault("protocol", TunnelProtocol.HBONE)
    fields.setdefault("node", "n1")
    return Workload(
        uid=fields.pop("uid", f"Kubernetes//{kind}/{namespace}/{name}"),
        name=name,
        namespace=namespace,
        addresses=tuple(parse_ip(a) for a in addresses),
        services={k if isinstance(k, NamespacedHostname) else key(k, namespace): v for k, v in links.items()},
        **fields,
    )


def service(name: str, *vips: str, namespace: str = "apps", **fields: Any) -> Service:
    """Its VIPs are in the default network unless written `network/ip`. Port 80 goes to 8080."""
    fields.setdefault("ports", {80: 8080})
    fields.setdefault("hostname", host(name, namespace))
    return Service(name=name, namespace=namespace, vips=tuple(vip(v) for v in vips), **fields)


def vip(text: str) -> NetworkAddress:
    network, _, ip = text.rpartition("/")
    return NetworkAddress(network, parse_ip(ip))


def gateway(where: str | NamespacedHostname, port: int = 15008) -> GatewayAddress:
    """`network/ip` or `ip`, or the key of a service."""
    return GatewayAddress(vip(where) if type(where) is str else where, port)


def policy(
    name: str,
    action: Action = Action.ALLOW,
    *matches: Match,
    namespace: str = "apps",
    scope: Scope = Scope.NAMESPACE,
    dry_run: bool = False,
) -> Authorization:
    """One rule per match; without any match it has no rules."""
    rules = tuple(Rule((Clause((m,)),)) for m in matches)
    return Authorization(name, namespace, scope, action, rules, dry_run)


def allow(name: str, *matches: Match, **fields: Any) -> Authorization:
    return policy(name, Action.ALLOW, *matches, **fields)


def deny(name: str, *matches: Match, **fields: Any) -> Authorization:
    return policy(name, Action.DENY, *matches, **fields)


def exact(text: str) -> StringMatch:
    return StringMatch(StringMatchKind.EXACT, text)


PRESENT = StringMatch(StringMatchKind.PRESENCE)


def identity(account: str = "web", namespace: str = "apps", trust_domain: str = "cluster.local") -> Identity:
    return Identity(trust_domain, namespace, account)


def connection(
    source: str = "10.0.0.9:40000", destination: str = "10.0.0.1:8080", who: Identity | None = None
) -> Connection:
    return Connection(at(source), at(destination), who)


def snapshot(*resources: Workload | Service | Authorization, node: str = "n1") -> Snapshot:
    """Resources applied in one batch; policies under their `namespace/name`."""
    return apply(Snapshot(node=node), batch(*resources))[0]


def refusing(base: Snapshot, **refused: RefusedPolicy) -> Snapshot:
    """The snapshot with these policies of `apps` refused, and no others."""
    found = {f"apps/{name}": policy for name, policy in refused.items()}
    return apply(base, Batch(refused_authorizations=found))[0]


def batch(*resources: Workload | Service | Authorization, removed: tuple[str, ...] = ()) -> Batch:
    policies = [r for r in resources if isinstance(r, Authorization)]
    return Batch(
        addresses=tuple(r for r in resources if not isinstance(r, Authorization)),
        removed_addresses=removed,
        authorizations=tuple((p.key, p) for p in policies),
    )


def pods(count: int, *, first: int = 1, **fields: Any) -> list[Workload]:
    """Pods w1, w2, ... at 10.1.x.y with equal fields."""
    numbers = itertools.islice(itertools.count(first), count)
    return [workload(f"w{n}", f"10.1.{n // 250}.{n % 250 + 1}", **fields) for n in numbers]
