"""A state like that of a lab, dumped: what `tests/vectors/istioctl` was made of, and is compared with.

`python -m tests.support.dumped` prints the dump. Its certificates are those that lie there, so that it is the same each
time; they have no keys.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cryptography import x509

from agent.dump.certificates import certificate_row
from agent.dump.mesh import policy_rows, service_rows, staged_services, workload_rows
from agent.dump.pods import PENDING, UP, PodFact, workload_state
from agent.dump.text import written
from agent.identity.keeper import Held, State
from agent.identity.schedule import Priority
from agent.model.address import parse_cidr
from agent.model.identity import Identity
from agent.model.policy import (
    Action,
    Authorization,
    Clause,
    Match,
    Rule,
    Scope,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)
from agent.model.service import (
    CidrVip,
    HealthPolicy,
    IPFamilies,
    LoadBalancing,
    Mode,
    Visibility,
    WeightedWaypoint,
)
from agent.model.service import Scope as Preference
from agent.model.workload import (
    ApplicationTunnel,
    Health,
    Locality,
    TunnelProtocol,
    TunnelToApplication,
    WorkloadType,
)
from agent.state.apply import Batch, apply
from agent.state.snapshot import Snapshot
from tests.support import mesh

VECTORS = Path(__file__).parents[1] / "vectors" / "istioctl"
CLIENT, SERVER = Identity("cluster.local", "demo", "client"), Identity("cluster.local", "demo", "server")
WAYPOINT = mesh.key("waypoint", "demo")


def workload(name: str, *addresses: str, **fields: Any) -> Any:
    fields = {
        "service_account": name,
        "workload_name": name,
        "canonical_name": name,
        "canonical_revision": "latest",
        "workload_type": WorkloadType.POD,
        "node": "node-a",
        **fields,
    }
    return mesh.workload(name, *addresses, namespace="demo", **fields)


def snapshot() -> Snapshot:
    web, west = mesh.key("web", "demo"), mesh.key("west", "demo")
    workloads = (
        workload("client", "10.77.1.11", "fd77:1::11", trust_domain="cluster.local"),
        workload(
            "server",
            "10.77.2.12",
            node="node-b",
            services={web: {80: 8080, 443: 8443}},
            waypoint=mesh.gateway(WAYPOINT),
            authorization_policies=("demo/only-client",),
            locality=Locality("eu", "eu-1", ""),
            application_tunnel=ApplicationTunnel(TunnelToApplication.PROXY, 9090),
        ),
        workload(
            "broken",
            "10.77.2.13",
            node="node-b",
            services={web: {80: 8080}},
            status=Health.UNHEALTHY,
            capacity=3,
        ),
        workload("waypoint", "10.77.2.15", node="node-b", services={WAYPOINT: {15008: 15008}}),
        workload("host", "10.77.0.2", host_network=True, protocol=TunnelProtocol.NONE),
        workload("named", hostname="db.example.com", protocol=TunnelProtocol.NONE, node="node-b"),
        workload("far", "10.99.0.1", network="west", network_gateway=mesh.gateway("west/10.99.9.9", 15008)),
        workload("early", "10.77.1.14", services={west: {80: 80}}),
    )
    services = (
        mesh.service(
            "web",
            "10.96.77.10",
            "fd77:96::10",
            namespace="demo",
            ports={80: 8080, 443: 0},
            subject_alt_names=("spiffe://cluster.local/ns/demo/sa/server",),
            waypoint=mesh.gateway(WAYPOINT),
            weighted_waypoints=(WeightedWaypoint(mesh.gateway(WAYPOINT), 3),),
            load_balancing=LoadBalancing(
                Mode.FAILOVER, (Preference.NETWORK, Preference.REGION), HealthPolicy.ONLY_HEALTHY
            ),
            ip_families=IPFamilies.DUAL,
            canonical=True,
        ),
        mesh.service(
            "waypoint",
            "10.96.77.15",
            namespace="demo",
            ports={15008: 15008},
            cidr_vips=(CidrVip("west", parse_cidr("10.4.0.0/16")),),
            visibility=Visibility.NAMESPACE,
        ),
    )
    state, _ = apply(Snapshot(node="node-a"), Batch(addresses=(*workloads, *services)))
    every = Match(
        namespaces=(StringMatch(StringMatchKind.PREFIX, "de"),),
        not_namespaces=(StringMatch(StringMatchKind.SUFFIX, "-old"),),
        service_accounts=(ServiceAccountMatch("demo", "client"),),
        not_service_accounts=(ServiceAccountMatch("demo", "host"),),
        principals=(StringMatch(StringMatchKind.EXACT, "cluster.local/ns/demo/sa/client"),),
        not_principals=(StringMatch(StringMatchKind.PRESENCE),),
        source_ips=(parse_cidr("10.77.0.0/16"),),
        not_source_ips=(parse_cidr("fd77:9::/64"),),
        destination_ips=(parse_cidr("10.77.2.12"),),
        not_destination_ips=(parse_cidr("10.77.2.13"),),
        destination_ports=(8080,),
        not_destination_ports=(9998,),
    )
    two_clauses = Rule((Clause((Match(destination_ports=(9998,)),)), Clause((Match(), every))))
    policies = (
        Authorization("only-client", "demo", Scope.WORKLOAD_SELECTOR, Action.ALLOW, (two_clauses,)),
        Authorization("nothing", "demo", Scope.NAMESPACE, Action.ALLOW),
        Authorization("trial", "istio-system", Scope.GLOBAL, Action.DENY, (Rule(),), dry_run=True),
    )
    state, _ = apply(state, Batch(authorizations=tuple((policy.key, policy) for policy in policies)))
    return state


PODS = (
    PodFact("demo", "client", UP, "7d1b2e1c-0000-4000-8000-000000000001", "client", "cluster.local"),
    PodFact("demo", "waypoint", UP, "", "waypoint", "cluster.local"),
    PodFact("demo", "late", PENDING, "7d1b2e1c-0000-4000-8000-000000000003"),
)


def connections() -> list[dict[str, str]]:
    """Rows as workers answer them."""

    def row(
        pod: str, direction: str, src: str, original: str, actual: str, protocol: str, service: str = ""
    ) -> Any:
        return {
            "pod": pod,
            "direction": direction,
            "src": src,
            "original_dst": original,
            "actual_dst": actual,
            "protocol": protocol,
            "client": "",
            "service": service,
        }

    web, waypoint = mesh.host("web", "demo"), mesh.host("waypoint", "demo")
    return [
        row(
            "demo/client", "outbound", "10.77.1.11:40001", "10.96.77.10:80", "10.77.2.12:15008", "HBONE", web
        ),
        row(
            "demo/client",
            "outbound",
            "[fd77:1::11]:40002",
            "192.0.2.1:443",
            "192.0.2.1:443",
            "TCP-PASSTHROUGH",
        ),
        row(
            "demo/waypoint",
            "inbound",
            "10.77.1.11:40003",
            "10.77.2.15:15008",
            "10.77.2.15:15008",
            "HBONE",
            waypoint,
        ),
        row("demo/waypoint", "inbound", "10.77.9.9:40004", "10.77.2.15:80", "10.77.2.15:80", "TCP"),
        row("demo/gone", "inbound", "10.77.9.9:40005", "10.77.2.99:80", "10.77.2.99:80", "TCP"),
    ]


def certificates() -> list[dict[str, Any]]:
    chain = x509.load_pem_x509_certificates((VECTORS / "chain.pem").read_bytes())
    roots = x509.load_pem_x509_certificates((VECTORS / "roots.pem").read_bytes())

    def held(identity: Identity, state: State, error: str = "") -> Held:
        return Held(identity, state, Priority.BACKGROUND, 0.0, 0, error, None, None)

    gone = Identity("cluster.local", "demo", "waypoint")
    return [
        certificate_row(held(CLIENT, State.AVAILABLE), chain, roots),
        certificate_row(held(SERVER, State.INITIALIZING), (), ()),
        certificate_row(held(gone, State.UNAVAILABLE, "the CA says no"), (), ()),
    ]


def sections() -> list[tuple[str, Any]]:
    state = snapshot()
    return [
        ("workloads", workload_rows(state)),
        ("services", service_rows(state)),
        ("policies", policy_rows(state)),
        ("stagedServices", staged_services(state)),
        ("certificates", certificates()),
        ("workloadState", workload_state(PODS, connections())),
    ]


def dump() -> bytes:
    return written(sections())


if __name__ == "__main__":
    sys.stdout.buffer.write(dump())
