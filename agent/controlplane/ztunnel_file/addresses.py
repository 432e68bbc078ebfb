"""Workloads and Services of ztunnel's file, by the names of its dump (docs/WIRE.md#config-dump). Pure.

Defaults are those of discovery. Raises ManifestError with file, line and field.
"""

from __future__ import annotations

from agent.controlplane.read.fields import Field
from agent.controlplane.ztunnel_file.words import (
    MAX_PORT,
    address,
    cidr,
    gateway,
    key_of_service,
    network_address,
    only,
    ports,
    word,
)
from agent.model import service as s
from agent.model import workload as w
from agent.model.identity import DEFAULT_TRUST_DOMAIN

WORKLOAD = frozenset(
    {
        *(
            "uid",
            "name",
            "namespace",
            "workloadIps",
            "hostname",
            "network",
            "networkMode",
            "node",
            "clusterId",
        ),
        *("protocol", "trustDomain", "serviceAccount", "nativeTunnel", "applicationTunnel"),
        *(
            "services",
            "status",
            "capacity",
            "locality",
            "waypoint",
            "networkGateway",
            "authorizationPolicies",
        ),
        *("workloadName", "workloadType", "canonicalName", "canonicalRevision"),
    }
)
SERVICE = frozenset(
    {
        *("name", "namespace", "hostname", "vips", "cidrVips", "ports", "endpoints", "subjectAltNames"),
        *("waypoint", "weightedWaypoints", "loadBalancer", "ipFamilies", "canonical", "visibility"),
    }
)
MODES = ("Standard", "HostNetwork")
CAPACITY_LIMIT = 2**32 - 1


def workload(at: Field) -> w.Workload:
    only(at, *WORKLOAD)
    uid = at.get("uid").text()
    if not uid:
        raise at.get("uid").error("it is what a workload is known by, and empty")
    tunnel = at.get("applicationTunnel")
    return w.Workload(
        uid=uid,
        name=at.get("name").text(),
        namespace=at.get("namespace").text(),
        addresses=tuple(map(address, at.get("workloadIps").each())),
        network=at.get("network").text(""),
        protocol=word(at.get("protocol"), w.TunnelProtocol, w.TunnelProtocol.NONE),
        trust_domain=at.get("trustDomain").text("") or DEFAULT_TRUST_DOMAIN,
        service_account=at.get("serviceAccount").text("") or "default",
        waypoint=gateway(at.get("waypoint")),
        network_gateway=gateway(at.get("networkGateway")),
        node=at.get("node").text(""),
        canonical_name=at.get("canonicalName").text(""),
        canonical_revision=at.get("canonicalRevision").text(""),
        workload_type=word(at.get("workloadType"), w.WorkloadType, w.WorkloadType.DEPLOYMENT),
        workload_name=at.get("workloadName").text(""),
        native_tunnel=at.get("nativeTunnel").boolean(),
        authorization_policies=at.get("authorizationPolicies").texts(),
        status=word(at.get("status"), w.Health, w.Health.HEALTHY),
        cluster_id=at.get("clusterId").text("") or "Kubernetes",
        hostname=at.get("hostname").text(""),
        services={
            key_of_service(at.get("services").get(key), key): ports(at.get("services").get(key))
            for key in at.get("services").names()
        },
        application_tunnel=_tunnel(tunnel) if tunnel.present else None,
        locality=_locality(at.get("locality")),
        host_network=at.get("networkMode").one_of(*MODES, default=MODES[0]) == MODES[1],
        capacity=at.get("capacity").integer(0, CAPACITY_LIMIT, 1),
    )


def service(at: Field) -> s.Service:
    only(at, *SERVICE)
    if at.get("endpoints").names():
        raise at.get("endpoints").error(
            "endpoints are the workloads that name the Service in their `services`: leave it out"
        )
    balancer = at.get("loadBalancer")
    return s.Service(
        name=at.get("name").text(),
        namespace=at.get("namespace").text(),
        hostname=at.get("hostname").text(),
        vips=tuple(map(network_address, at.get("vips").each())),
        cidr_vips=tuple(map(_range, at.get("cidrVips").each())),
        ports=ports(at.get("ports")),
        subject_alt_names=at.get("subjectAltNames").texts(),
        waypoint=gateway(at.get("waypoint")),
        weighted_waypoints=tuple(map(_weighted, at.get("weightedWaypoints").each())),
        load_balancing=_balancing(balancer) if balancer.present else s.LoadBalancing(),
        ip_families=word(at.get("ipFamilies"), s.IPFamilies, s.IPFamilies.AUTOMATIC),
        canonical=at.get("canonical").boolean(),
        visibility=word(at.get("visibility"), s.Visibility, s.Visibility.PUBLIC),
    )


def _tunnel(at: Field) -> w.ApplicationTunnel:
    only(at, "protocol", "port")
    protocol = word(at.get("protocol"), w.TunnelToApplication, w.TunnelToApplication.NONE)
    return w.ApplicationTunnel(protocol, at.get("port").integer(0, MAX_PORT, 0) or None)


def _locality(at: Field) -> w.Locality:
    only(at, "region", "zone", "subzone")
    return w.Locality(*(at.get(key).text("") if at.present else "" for key in ("region", "zone", "subzone")))


def _range(at: Field) -> s.CidrVip:
    only(at, "network", "cidr")
    return s.CidrVip(at.get("network").text(""), cidr(at.get("cidr")))


def _weighted(at: Field) -> s.WeightedWaypoint:
    only(at, "destination", "weight")
    waypoint = gateway(at.get("destination"))
    if waypoint is None:
        raise at.get("destination").error("it is missing")
    return s.WeightedWaypoint(waypoint, at.get("weight").integer(0, CAPACITY_LIMIT))


def _balancing(at: Field) -> s.LoadBalancing:
    only(at, "routingPreferences", "mode", "healthPolicy")
    return s.LoadBalancing(
        word(at.get("mode"), s.Mode, s.Mode.STANDARD),
        tuple(word(each, s.Scope, s.Scope.REGION) for each in at.get("routingPreferences").each()),
        word(at.get("healthPolicy"), s.HealthPolicy, s.HealthPolicy.ONLY_HEALTHY),
    )
