"""xDS resources: protobuf bytes to model values, or a DecodeError that becomes the NACK of that resource.

Formats and conversions: docs/WIRE.md#mesh-state. Where upstream is lenient in a way that changes what a
policy admits (an IP or a StringMatch it cannot parse is dropped from its list, ports are cut to 16 bits),
the resource is refused here instead: a list that lost an entry means something else than its author wrote.
Knows nothing about streams, versions or the state the values go into.

What many resources say alike (names of namespaces and nodes, links to the same services, the same waypoint) is one
object in all of them: of 100,000 workloads most is alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from sys import intern
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.message import DecodeError as ProtobufError

from agent.model import policy as p
from agent.model import service as s
from agent.model import workload as w
from agent.model.address import (
    CIDR,
    IP,
    AddressError,
    NamespacedHostname,
    NetworkAddress,
    cidr_from_bytes,
    ip_from_bytes,
)
from agent.model.identity import DEFAULT_TRUST_DOMAIN
from agent.model.limits import ConnectionLimit, LimitError
from agent.pb import authorization_pb2, workload_pb2
from agent.wire.limits_message import decode_limits

T = TypeVar("T")

ALIKE = 16384
"""Of how many different values it is remembered what they are alike with."""
TUNNEL_PROTOCOLS = {0: w.TunnelProtocol.NONE, 1: w.TunnelProtocol.HBONE}
WORKLOAD_TYPES = {
    0: w.WorkloadType.DEPLOYMENT,
    1: w.WorkloadType.CRONJOB,
    2: w.WorkloadType.POD,
    3: w.WorkloadType.JOB,
}
STATUSES = {0: w.Health.HEALTHY, 1: w.Health.UNHEALTHY}
NETWORK_MODES = {0: False, 1: True}
APPLICATION_PROTOCOLS = {0: w.TunnelToApplication.NONE, 1: w.TunnelToApplication.PROXY}
BALANCING_SCOPES = {
    1: s.Scope.REGION,
    2: s.Scope.ZONE,
    3: s.Scope.SUBZONE,
    4: s.Scope.NODE,
    5: s.Scope.CLUSTER,
    6: s.Scope.NETWORK,
}
BALANCING_MODES = {0: s.Mode.STANDARD, 1: s.Mode.STRICT, 2: s.Mode.FAILOVER, 3: s.Mode.PASSTHROUGH}
HEALTH_POLICIES = {0: s.HealthPolicy.ONLY_HEALTHY, 1: s.HealthPolicy.ALLOW_ALL}
IP_FAMILIES = {
    0: s.IPFamilies.AUTOMATIC,
    1: s.IPFamilies.IPV4_ONLY,
    2: s.IPFamilies.IPV6_ONLY,
    3: s.IPFamilies.DUAL,
}
POLICY_SCOPES = {0: p.Scope.GLOBAL, 1: p.Scope.NAMESPACE, 2: p.Scope.WORKLOAD_SELECTOR}
POLICY_ACTIONS = {0: p.Action.ALLOW, 1: p.Action.DENY}
STRING_MATCHES = {
    "exact": p.StringMatchKind.EXACT,
    "prefix": p.StringMatchKind.PREFIX,
    "suffix": p.StringMatchKind.SUFFIX,
    "presence": p.StringMatchKind.PRESENCE,
}


class DecodeError(ValueError):
    """The resource cannot be used; the message names it, the field and what is wrong with it."""


def decode_address(name: str, raw: bytes) -> w.Workload | s.Service:
    """A resource of type `istio.workload.Address`; `name` is its xDS name, for the message."""
    message = _parse(workload_pb2.Address(), name, raw)
    kind = message.WhichOneof("type")
    if kind is None:
        raise DecodeError(f"{name}: type: neither workload nor service is set")
    try:
        return _workload(message.workload, name) if kind == "workload" else _service(message.service)
    except DecodeError as error:
        raise DecodeError(f"{name}: {error}") from error


def decode_authorization(name: str, raw: bytes) -> p.Authorization:
    """A resource of type `istio.security.Authorization`; `name` is its xDS name, for the message."""
    message = _parse(authorization_pb2.Authorization(), name, raw)
    try:
        return p.Authorization(
            name=message.name,
            namespace=message.namespace,
            scope=_enum("scope", POLICY_SCOPES, message.scope),
            action=_enum("action", POLICY_ACTIONS, message.action),
            rules=_each("rules", _rule, message.rules),
            dry_run=message.dry_run,
        )
    except DecodeError as error:
        raise DecodeError(f"{name}: {error}") from error


def refused_policy(raw: bytes, reason: str) -> p.RefusedPolicy:
    """What is still known of a policy that cannot be used. Whom it is about is everybody where it cannot be read."""
    message = authorization_pb2.Authorization()
    try:
        message.ParseFromString(raw)
    except ProtobufError:
        return p.RefusedPolicy(reason, p.Scope.GLOBAL)
    scope = POLICY_SCOPES.get(message.scope, p.Scope.GLOBAL)
    return p.RefusedPolicy(reason, scope, message.namespace, message.dry_run)


def _parse(message: Any, name: str, raw: bytes) -> Any:
    try:
        message.ParseFromString(raw)
    except ProtobufError as error:
        raise DecodeError(f"{name}: not an {message.DESCRIPTOR.full_name}: {error}") from error
    return message


def _enum(field: str, known: Mapping[int, T], value: int) -> T:
    if value not in known:
        raise DecodeError(f"{field}: {value} is not a known value")
    return known[value]


def _port(field: str, value: int) -> int:
    if value > 65535:
        raise DecodeError(f"{field}: {value} is not a port (at most 65535)")
    return value


def _ip(field: str, raw: bytes) -> IP:
    try:
        return ip_from_bytes(raw)
    except AddressError as error:
        raise DecodeError(f"{field}: {error}") from error


def _cidr(field: str, raw: bytes, length: int) -> CIDR:
    try:
        return cidr_from_bytes(raw, length)
    except AddressError as error:
        raise DecodeError(f"{field}: {error}") from error


def _each(field: str, decode: Callable[[str, Any], T], items: Iterable[Any]) -> tuple[T, ...]:
    return tuple(decode(f"{field}[{index}]", item) for index, item in enumerate(items))


# --- istio.workload.Workload


def _workload(m: Any, name: str) -> w.Workload:
    if not m.uid:
        raise DecodeError("uid: it is empty, and nothing else tells workloads apart")
    return w.Workload(
        uid=name if m.uid == name else m.uid,
        name=m.name,
        namespace=intern(m.namespace),
        addresses=_each("addresses", _ip, m.addresses),
        network=intern(m.network),
        protocol=_enum("tunnel_protocol", TUNNEL_PROTOCOLS, m.tunnel_protocol),
        trust_domain=intern(m.trust_domain or DEFAULT_TRUST_DOMAIN),
        service_account=intern(m.service_account or "default"),
        waypoint=_optional_gateway(m, "waypoint"),
        network_gateway=_optional_gateway(m, "network_gateway"),
        node=intern(m.node),
        canonical_name=intern(m.canonical_name),
        canonical_revision=intern(m.canonical_revision),
        workload_type=WORKLOAD_TYPES.get(m.workload_type, w.WorkloadType.DEPLOYMENT),
        workload_name=intern(m.workload_name),
        native_tunnel=m.native_tunnel,
        authorization_policies=_same_texts(tuple(m.authorization_policies)),
        status=_enum("status", STATUSES, m.status),
        cluster_id=intern(m.cluster_id or "Kubernetes"),
        hostname=intern(m.hostname),
        services=_services(m.services),
        application_tunnel=_application_tunnel(m),
        locality=_same_locality(m.locality.region, m.locality.zone, m.locality.subzone),
        host_network=_enum("network_mode", NETWORK_MODES, m.network_mode),
        capacity=m.capacity.value if m.HasField("capacity") else 1,
        limits=_limits(m) if m.extensions else (),
    )


def _limits(m: Any) -> tuple[ConnectionLimit, ...]:
    try:
        return decode_limits(m.extensions, _match)
    except LimitError as error:
        raise DecodeError(f"extensions: {error}") from error


def _services(links: Mapping[str, Any]) -> Mapping[NamespacedHostname, Mapping[int, int]]:
    if not links:
        return w.EMPTY
    # A protobuf map has no order on the wire; sorted, every worker finds the same service first.
    return _same_links(
        tuple(
            (key, tuple((port.service_port, port.target_port) for port in links[key].ports))
            for key in sorted(links)
        )
    )


@lru_cache(maxsize=ALIKE)
def _same_links(
    links: tuple[tuple[str, tuple[tuple[int, int], ...]], ...],
) -> Mapping[NamespacedHostname, Mapping[int, int]]:
    return MappingProxyType(
        {_service_key(key): _port_pairs(f"services[{key!r}].ports", ports) for key, ports in links}
    )


@lru_cache(maxsize=ALIKE)
def _service_key(text: str) -> NamespacedHostname:
    try:
        return NamespacedHostname.parse(text)
    except AddressError as error:
        raise DecodeError(f"services: {error}") from error


@lru_cache(maxsize=ALIKE)
def _same_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(intern, texts))


@lru_cache(maxsize=ALIKE)
def _same_locality(region: str, zone: str, subzone: str) -> w.Locality:
    return w.Locality(region, zone, subzone)


@lru_cache(maxsize=ALIKE)
def _same_gateway(destination: NetworkAddress | NamespacedHostname, port: int) -> w.GatewayAddress:
    return w.GatewayAddress(destination, port)


def _application_tunnel(m: Any) -> w.ApplicationTunnel | None:
    if not m.HasField("application_tunnel"):
        return None
    tunnel = m.application_tunnel
    return w.ApplicationTunnel(
        _enum("application_tunnel.protocol", APPLICATION_PROTOCOLS, tunnel.protocol),
        _port("application_tunnel.port", tunnel.port) or None,
    )


def _optional_gateway(m: Any, field: str) -> w.GatewayAddress | None:
    return _gateway(field, getattr(m, field)) if m.HasField(field) else None


def _gateway(field: str, m: Any) -> w.GatewayAddress:
    kind = m.WhichOneof("destination")
    destination: NetworkAddress | NamespacedHostname
    if kind == "address":
        destination = NetworkAddress(m.address.network, _ip(f"{field}.address", m.address.address))
    elif kind == "hostname":
        destination = NamespacedHostname(m.hostname.namespace, m.hostname.hostname)
    else:
        raise DecodeError(f"{field}.destination: neither address nor hostname is set")
    return _same_gateway(destination, _port(f"{field}.hbone_mtls_port", m.hbone_mtls_port))


# --- istio.workload.Service


def _service(m: Any) -> s.Service:
    if not m.hostname:
        raise DecodeError("hostname: it is empty, and nothing else tells services apart")
    vips, cidr_vips = _vips(m.addresses)
    return s.Service(
        name=m.name,
        namespace=intern(m.namespace),
        hostname=m.hostname,
        vips=vips,
        cidr_vips=cidr_vips,
        ports=_ports("ports", m.ports),
        subject_alt_names=tuple(m.subject_alt_names),
        waypoint=_optional_gateway(m, "waypoint"),
        weighted_waypoints=_each("weighted_waypoints", _weighted_waypoint, m.weighted_waypoints),
        load_balancing=_load_balancing(m.load_balancing),
        ip_families=_enum("ip_families", IP_FAMILIES, m.ip_families),
        canonical=m.canonical,
        visibility=s.Visibility.NAMESPACE if m.visibility == 1 else s.Visibility.PUBLIC,
    )


def _vips(addresses: Iterable[Any]) -> tuple[tuple[NetworkAddress, ...], tuple[s.CidrVip, ...]]:
    """Exact addresses, and ranges: those whose length is set and shorter than the whole address."""
    vips: list[NetworkAddress] = []
    ranges: list[s.CidrVip] = []
    for index, m in enumerate(addresses):
        field = f"addresses[{index}]"
        if m.HasField("length") and m.length != len(m.address) * 8:
            ranges.append(s.CidrVip(m.network, _cidr(field, m.address, m.length)))
        else:
            vips.append(NetworkAddress(m.network, _ip(field, m.address)))
    return tuple(vips), tuple(ranges)


def _ports(field: str, ports: Iterable[Any]) -> Mapping[int, int]:
    return _port_pairs(field, tuple((m.service_port, m.target_port) for m in ports))


@lru_cache(maxsize=ALIKE)
def _port_pairs(field: str, ports: tuple[tuple[int, int], ...]) -> Mapping[int, int]:
    decoded = {
        _port(f"{field}.service_port", service): _port(f"{field}.target_port", target)
        for service, target in ports
    }
    return MappingProxyType(decoded) if decoded else s.NO_PORTS


def _weighted_waypoint(field: str, m: Any) -> s.WeightedWaypoint:
    return s.WeightedWaypoint(_gateway(f"{field}.destination", m.destination), m.weight)


def _load_balancing(m: Any) -> s.LoadBalancing:
    return _same_balancing(m.mode, tuple(m.routing_preference), m.health_policy)


@lru_cache(maxsize=ALIKE)
def _same_balancing(mode: int, preferences: tuple[int, ...], health_policy: int) -> s.LoadBalancing:
    return s.LoadBalancing(
        mode=_enum("load_balancing.mode", BALANCING_MODES, mode),
        preferences=tuple(
            _enum("load_balancing.routing_preference", BALANCING_SCOPES, value) for value in preferences
        ),
        health_policy=_enum("load_balancing.health_policy", HEALTH_POLICIES, health_policy),
    )


# --- istio.security.Authorization


def _rule(field: str, m: Any) -> p.Rule:
    return p.Rule(_each(f"{field}.clauses", _clause, m.clauses))


def _clause(field: str, m: Any) -> p.Clause:
    return p.Clause(_each(f"{field}.matches", _match, m.matches))


def _match(field: str, m: Any) -> p.Match:
    def group(name: str, decode: Callable[[str, Any], T]) -> tuple[T, ...]:
        return _each(f"{field}.{name}", decode, getattr(m, name))

    return p.Match(
        namespaces=group("namespaces", _string_match),
        not_namespaces=group("not_namespaces", _string_match),
        principals=group("principals", _string_match),
        not_principals=group("not_principals", _string_match),
        source_ips=group("source_ips", _policy_address),
        not_source_ips=group("not_source_ips", _policy_address),
        destination_ips=group("destination_ips", _policy_address),
        not_destination_ips=group("not_destination_ips", _policy_address),
        destination_ports=group("destination_ports", _port),
        not_destination_ports=group("not_destination_ports", _port),
        service_accounts=group("service_accounts", _service_account),
        not_service_accounts=group("not_service_accounts", _service_account),
    )


def _string_match(field: str, m: Any) -> p.StringMatch:
    kind = m.WhichOneof("match_type")
    if kind is None:
        raise DecodeError(f"{field}: no kind of match is set")
    return p.StringMatch(STRING_MATCHES[kind], "" if kind == "presence" else getattr(m, kind))


def _policy_address(field: str, m: Any) -> CIDR:
    return _cidr(field, m.address, m.length)


def _service_account(_field: str, m: Any) -> p.ServiceAccountMatch:
    return p.ServiceAccountMatch(m.namespace, m.serviceAccount)
