"""Workloads and services as xDS resources: what `xds_decode` makes the same value of.

The control process keeps no bytes of what it accepted, and tells a worker that has just come by these. Fields that
nothing here reads are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from agent.model.address import NetworkAddress
from agent.model.service import Service, Visibility
from agent.model.workload import GatewayAddress, Workload
from agent.pb import workload_pb2
from agent.wire import xds_decode as d
from agent.wire.limits_message import add_limits

T = TypeVar("T")


def _inverse(known: Mapping[int, T]) -> dict[T, int]:
    return {value: number for number, value in known.items()}


TUNNEL_PROTOCOLS = _inverse(d.TUNNEL_PROTOCOLS)
WORKLOAD_TYPES = _inverse(d.WORKLOAD_TYPES)
STATUSES = _inverse(d.STATUSES)
NETWORK_MODES = _inverse(d.NETWORK_MODES)
APPLICATION_PROTOCOLS = _inverse(d.APPLICATION_PROTOCOLS)
BALANCING_SCOPES = _inverse(d.BALANCING_SCOPES)
BALANCING_MODES = _inverse(d.BALANCING_MODES)
HEALTH_POLICIES = _inverse(d.HEALTH_POLICIES)
IP_FAMILIES = _inverse(d.IP_FAMILIES)


def encode_address(resource: Workload | Service) -> bytes:
    """A resource of type `istio.workload.Address`."""
    address = workload_pb2.Address()
    if isinstance(resource, Workload):
        _workload(address.workload, resource)
    else:
        _service(address.service, resource)
    raw: bytes = address.SerializeToString()
    return raw


def _workload(m: Any, w: Workload) -> None:
    m.uid, m.name, m.namespace = w.uid, w.name, w.namespace
    m.addresses.extend([ip.packed for ip in w.addresses])
    m.network, m.node, m.hostname = w.network, w.node, w.hostname
    m.tunnel_protocol = TUNNEL_PROTOCOLS[w.protocol]
    m.trust_domain, m.service_account, m.cluster_id = w.trust_domain, w.service_account, w.cluster_id
    _gateway(m, "waypoint", w.waypoint)
    _gateway(m, "network_gateway", w.network_gateway)
    m.canonical_name, m.canonical_revision = w.canonical_name, w.canonical_revision
    m.workload_type, m.workload_name = WORKLOAD_TYPES[w.workload_type], w.workload_name
    m.native_tunnel, m.network_mode = w.native_tunnel, NETWORK_MODES[w.host_network]
    m.authorization_policies.extend(w.authorization_policies)
    m.status = STATUSES[w.status]
    for key, ports in w.services.items():
        # The link is there without a port too.
        _ports(m.services[str(key)].ports, ports)
    if w.application_tunnel is not None:
        m.application_tunnel.SetInParent()
        m.application_tunnel.protocol = APPLICATION_PROTOCOLS[w.application_tunnel.protocol]
        m.application_tunnel.port = w.application_tunnel.port or 0
    at = w.locality
    if at.region or at.zone or at.subzone:
        m.locality.region, m.locality.zone, m.locality.subzone = at.region, at.zone, at.subzone
    if w.capacity != 1:
        m.capacity.value = w.capacity
    if w.limits:
        add_limits(m, w.limits)


def _service(m: Any, s: Service) -> None:
    m.name, m.namespace, m.hostname = s.name, s.namespace, s.hostname
    for vip in s.vips:
        m.addresses.add(network=vip.network, address=vip.ip.packed)
    for block in s.cidr_vips:
        cidr = block.cidr
        m.addresses.add(network=block.network, address=cidr.network_address.packed, length=cidr.prefixlen)
    _ports(m.ports, s.ports)
    m.subject_alt_names.extend(s.subject_alt_names)
    _gateway(m, "waypoint", s.waypoint)
    for weighted in s.weighted_waypoints:
        added = m.weighted_waypoints.add(weight=weighted.weight)
        _gateway(added, "destination", weighted.waypoint)
    balancing = s.load_balancing
    m.load_balancing.mode = BALANCING_MODES[balancing.mode]
    m.load_balancing.routing_preference.extend([BALANCING_SCOPES[scope] for scope in balancing.preferences])
    m.load_balancing.health_policy = HEALTH_POLICIES[balancing.health_policy]
    m.ip_families, m.canonical = IP_FAMILIES[s.ip_families], s.canonical
    if s.visibility is Visibility.NAMESPACE:
        m.visibility = 1


def _ports(into: Any, ports: Mapping[int, int]) -> None:
    for service, target in ports.items():
        into.add(service_port=service, target_port=target)


def _gateway(m: Any, field: str, gateway: GatewayAddress | None) -> None:
    if gateway is None:
        return
    into, where = getattr(m, field), gateway.destination
    if isinstance(where, NetworkAddress):
        into.address.network, into.address.address = where.network, where.ip.packed
    else:
        into.hostname.SetInParent()
        into.hostname.namespace, into.hostname.hostname = where.namespace, where.hostname
    into.hbone_mtls_port = gateway.hbone_port
