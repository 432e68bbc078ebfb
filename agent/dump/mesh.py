"""Workloads, Services and policies as ztunnel dumps them and istioctl reads them (docs/WIRE.md#config-dump). Pure.

Names are camelCase; what is empty is left out where ztunnel leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.model.address import NamespacedHostname
from agent.model.policy import Authorization, Match, ServiceAccountMatch, StringMatch, StringMatchKind
from agent.model.service import IPFamilies, LoadBalancing, Service
from agent.model.workload import GatewayAddress, Locality, Workload
from agent.state.snapshot import Snapshot

Row = dict[str, Any]


def workload_rows(snapshot: Snapshot) -> Iterator[Row]:
    """In order of their uids, and made one after another: there may be many."""
    return (workload_row(snapshot.workloads[uid]) for uid in sorted(snapshot.workloads))


def service_rows(snapshot: Snapshot) -> Iterator[Row]:
    """With the endpoints that workloads name, the unhealthy ones too: their `status` says so."""
    for key in sorted(snapshot.services):
        yield service_row(snapshot.services[key], endpoints(snapshot, key))


def policy_rows(snapshot: Snapshot) -> Iterator[Row]:
    return (policy_row(snapshot.policies[name]) for name in sorted(snapshot.policies))


def staged_services(snapshot: Snapshot) -> Row:
    """Endpoints of Services that nobody has described yet."""
    unknown = sorted(key for key in snapshot.links if key not in snapshot.services)
    return {str(key): endpoints(snapshot, key) for key in unknown}


def workload_row(workload: Workload) -> Row:
    tunnel = workload.application_tunnel
    row: Row = {
        "workloadIps": list(map(str, workload.addresses)),
        "waypoint": _gateway(workload.waypoint),
        "networkGateway": _gateway(workload.network_gateway),
        "protocol": workload.protocol.value,
        "networkMode": "HostNetwork" if workload.host_network else "Standard",
        "uid": workload.uid,
        "name": workload.name,
        "namespace": workload.namespace,
        "trustDomain": workload.trust_domain,
        "serviceAccount": workload.service_account,
        "network": workload.network,
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_type.value,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "hostname": workload.hostname,
        "node": workload.node,
        "nativeTunnel": workload.native_tunnel,
        "applicationTunnel": tunnel and {"protocol": tunnel.protocol.value, "port": tunnel.port},
        "authorizationPolicies": list(workload.authorization_policies),
        "status": workload.status.value,
        "clusterId": workload.cluster_id,
        "locality": _locality(workload.locality),
        "services": list(map(str, workload.services)),
        "capacity": workload.capacity,
    }
    return {key: value for key, value in row.items() if value or key in _ALWAYS_OF_WORKLOAD}


_ALWAYS_OF_WORKLOAD = frozenset(
    ("workloadIps", "protocol", "networkMode", "name", "namespace", "status", "clusterId", "capacity")
)


def service_row(service: Service, endpoints: Row) -> Row:
    row: Row = {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": list(map(str, service.vips)),
        "cidrVips": [{"network": vip.network, "cidr": str(vip.cidr)} for vip in service.cidr_vips],
        "ports": _ports(service.ports),
        "endpoints": endpoints,
        "subjectAltNames": list(service.subject_alt_names),
        "waypoint": _gateway(service.waypoint),
        "weightedWaypoints": [
            {"destination": _gateway(each.waypoint), "weight": each.weight}
            for each in service.weighted_waypoints
        ],
        "loadBalancer": _load_balancer(service.load_balancing),
        "ipFamilies": service.ip_families.value if service.ip_families is not IPFamilies.AUTOMATIC else "",
        "canonical": service.canonical,
        "visibility": service.visibility.value,
    }
    return {key: value for key, value in row.items() if value or key not in _SPARED_OF_SERVICE}


_SPARED_OF_SERVICE = frozenset(("cidrVips", "waypoint", "weightedWaypoints", "loadBalancer", "ipFamilies"))


def endpoints(snapshot: Snapshot, key: NamespacedHostname) -> Row:
    """By the uid of the workload, as they are listed."""
    return {
        each.uid: {"workloadUid": each.uid, "port": _ports(each.services[key]), "status": each.status.value}
        for each in snapshot.linked(key)
    }


def policy_row(policy: Authorization) -> Row:
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": policy.scope.value,
        "action": policy.action.value,
        "rules": [
            [[_match(match) for match in clause.matches] for clause in rule.clauses] for rule in policy.rules
        ],
        "dryRun": policy.dry_run,
    }


def _match(match: Match) -> Row:
    row: Row = {
        "namespaces": list(map(_string, match.namespaces)),
        "notNamespaces": list(map(_string, match.not_namespaces)),
        "serviceAccounts": list(map(_account, match.service_accounts)),
        "notServiceAccounts": list(map(_account, match.not_service_accounts)),
        "principals": list(map(_string, match.principals)),
        "notPrincipals": list(map(_string, match.not_principals)),
        "sourceIps": list(map(str, match.source_ips)),
        "notSourceIps": list(map(str, match.not_source_ips)),
        "destinationIps": list(map(str, match.destination_ips)),
        "notDestinationIps": list(map(str, match.not_destination_ips)),
        "destinationPorts": list(match.destination_ports),
        "notDestinationPorts": list(match.not_destination_ports),
    }
    return {key: value for key, value in row.items() if value}


def _string(match: StringMatch) -> Row:
    return {match.kind.value: [] if match.kind is StringMatchKind.PRESENCE else match.value}


def _account(match: ServiceAccountMatch) -> Row:
    return {"namespace": match.namespace, "serviceAccount": match.service_account}


def _gateway(gateway: GatewayAddress | None) -> Row | None:
    """`network/ip` or `namespace/hostname`, by which istioctl finds the name of a waypoint among the Services."""
    if gateway is None:
        return None
    return {"destination": str(gateway.destination), "hboneMtlsPort": gateway.hbone_port}


def _locality(locality: Locality) -> Row | None:
    if locality == Locality():
        return None
    return {"region": locality.region, "zone": locality.zone, "subzone": locality.subzone}


def _load_balancer(balancing: LoadBalancing) -> Row | None:
    if balancing == LoadBalancing():
        return None
    return {
        "routingPreferences": [scope.value for scope in balancing.preferences],
        "mode": balancing.mode.value,
        "healthPolicy": balancing.health_policy.value,
    }


def _ports(ports: Mapping[int, int]) -> dict[str, int]:
    return {str(port): target for port, target in ports.items()}
