"""Workloads that are no pods: of WorkloadEntries, and of the endpoints of ServiceEntries and EndpointSlices. Pure.

Field by field as istiod does it (docs/WIRE.md#translation), but that an endpoint without a network is on the mesh's own
(istiod gives it that of the endpoint before it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.controlplane.read.mesh_objects import (
    Endpoint,
    EndpointSlice,
    ServiceEntry,
    SliceEndpoint,
    WorkloadEntry,
)
from agent.controlplane.read.meta import Meta
from agent.controlplane.translate.pod import (
    CAPTURED,
    NAMES,
    REVISIONS,
    WORKLOAD_NAME,
    first_label,
    speaks_hbone,
)
from agent.pb import workload_pb2 as wds

REGISTERED = "istio.io/autoRegistrationGroup"
BY_NAME = ("DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What is the same for all of a mesh. `trust_domain` is empty for the default one; `gateways` by network."""

    cluster_id: str
    trust_domain: str
    network: str
    gateways: Mapping[str, wds.GatewayAddress]


def workload_entry_uid(entry: WorkloadEntry, cluster_id: str) -> str:
    return f"{cluster_id}/networking.istio.io/WorkloadEntry/{entry.meta.namespace}/{entry.meta.name}"


def entry_endpoint_uid(entry: ServiceEntry, endpoint: Endpoint, cluster_id: str) -> str:
    meta = entry.meta
    return f"{cluster_id}/networking.istio.io/ServiceEntry/{meta.namespace}/{meta.name}/{endpoint.address}"


def slice_endpoint_uid(found: EndpointSlice, endpoint: SliceEndpoint, cluster_id: str) -> str:
    meta = found.meta
    return f"{cluster_id}/discovery.k8s.io/EndpointSlice/{meta.namespace}/{meta.name}/{endpoint.ips[0]}"


def endpoints_of(entry: ServiceEntry, hosts: Iterable[str]) -> Iterator[tuple[Endpoint, tuple[str, ...]]]:
    """Each with the hosts that it is for: all of them, or where none is written and names are resolved, its own."""
    hosts = tuple(hosts)
    for endpoint in entry.endpoints if hosts else ():
        yield endpoint, hosts
    if not entry.endpoints and not entry.selector and entry.resolution in BY_NAME:
        for host in hosts:
            yield Endpoint(address=host, ip=None), (host,)


def translate_workload_entry(
    entry: WorkloadEntry,
    where: Whereabouts,
    services: Mapping[str, wds.PortList],
    policies: Iterable[str],
) -> wds.Workload:
    meta = entry.meta
    name = meta.annotations.get(REGISTERED) or entry.labels.get(WORKLOAD_NAME) or meta.name
    return _outsider(
        workload_entry_uid(entry, where.cluster_id),
        meta,
        entry.labels,
        entry.endpoint,
        name,
        where,
        services,
        policies,
    )


def translate_entry_endpoint(
    entry: ServiceEntry,
    endpoint: Endpoint,
    where: Whereabouts,
    services: Mapping[str, wds.PortList],
    policies: Iterable[str],
) -> wds.Workload:
    """The labels are those of the entry."""
    uid = entry_endpoint_uid(entry, endpoint, where.cluster_id)
    return _outsider(uid, entry.meta, entry.labels, endpoint, entry.meta.name, where, services, policies)


def _outsider(
    uid: str,
    meta: Meta,
    labels: Mapping[str, str],
    endpoint: Endpoint,
    name: str,
    where: Whereabouts,
    services: Mapping[str, wds.PortList],
    policies: Iterable[str],
) -> wds.Workload:
    is_native = speaks_hbone(labels)
    is_captured = meta.annotations.get(CAPTURED) == "enabled"
    network = endpoint.network or where.network
    message = wds.Workload(
        uid=uid,
        name=meta.name,
        namespace=meta.namespace,
        addresses=[endpoint.ip.packed] if endpoint.ip else [],
        hostname="" if endpoint.ip else endpoint.address,
        network=network,
        network_gateway=where.gateways.get(network),
        tunnel_protocol=wds.HBONE if is_native or is_captured else wds.NONE,
        native_tunnel=is_native,
        trust_domain=where.trust_domain,
        service_account=endpoint.service_account,
        canonical_name=first_label(labels, NAMES, name),
        canonical_revision=first_label(labels, REVISIONS, "latest"),
        workload_type=wds.POD,
        workload_name=name,
        authorization_policies=policies,
        cluster_id=where.cluster_id,
        services=services,
    )
    if endpoint.weight:
        message.capacity.value = endpoint.weight
    if endpoint.locality:
        region, zone, subzone = (*endpoint.locality.split("/"), "", "")[:3]
        message.locality.CopyFrom(wds.Locality(region=region, zone=zone, subzone=subzone))
    return message


def translate_slice_endpoint(
    found: EndpointSlice, endpoint: SliceEndpoint, where: Whereabouts, services: Mapping[str, wds.PortList]
) -> wds.Workload:
    """Its address may be that of others too, so nobody is known by it."""
    return wds.Workload(
        uid=slice_endpoint_uid(found, endpoint, where.cluster_id),
        name=found.meta.name,
        namespace=found.meta.namespace,
        addresses=[ip.packed for ip in endpoint.ips],
        network=where.network,
        trust_domain=where.trust_domain,
        cluster_id=where.cluster_id,
        services=services,
        status=wds.HEALTHY if endpoint.ready else wds.UNHEALTHY,
        network_mode=wds.HOST_NETWORK,
    )
