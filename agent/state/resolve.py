"""Where an outbound connection goes: docs/WIRE.md#outbound, step by step; doubt is a refusal.

Pure: a snapshot, the pod that dials, what it dialled, a random generator and options come in; a Route comes
out, or a Refusal. The source is the pod that owns the connection, never looked up by address. Doubt refuses:
a service without endpoints, a port it does not declare and a waypoint that cannot be found never turn into
passthrough.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from agent.model.address import CIDR, IP, NamespacedHostname, NetworkAddress, SocketAddress
from agent.model.listener import HBONE, OWN_PORTS
from agent.model.outcome import Outcome, Refusal, Unknown
from agent.model.route import Hop, Route
from agent.model.service import Mode, Service
from agent.model.workload import GatewayAddress, TunnelProtocol, Workload
from agent.state.absent import Absent
from agent.state.balance import Purpose
from agent.state.host_names import NamedHosts
from agent.state.snapshot import Snapshot
from agent.state.upstream import Upstream, address_of, from_service, service_identities
from agent.state.waypoint import find_gateway, is_instance, is_there, pick_waypoint, preferred_ip

ROUTES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """How this node resolves. `own_ports`: the agent's, to which nothing may be relayed."""

    network: str = ""
    mesh_cidrs: tuple[CIDR, ...] = ()
    """Ranges in which a destination nobody knows is refused instead of passed through."""
    refuse_unknown: bool = False
    own_ports: frozenset[int] = OWN_PORTS
    names: NamedHosts = field(default_factory=NamedHosts, compare=False)
    """Of workloads that have no address but a host name."""
    own_addresses: frozenset[IP] = frozenset()
    """The proxy's own, in its private namespaces: nobody is there to be talked to."""
    is_partial: bool = False
    """The state holds what was asked for, so what it lacks may be there all the same."""
    absent: Absent = field(default_factory=Absent, compare=False)
    """What was looked for in vain just now."""


def resolve(
    snapshot: Snapshot, source: Workload, destination: SocketAddress, rng: Random, options: Options
) -> Route:
    """The route of a connection from a pod of this node.

    Raises Refusal with the reason; one that is Unknown may be another answer in a moment.
    """
    if destination.ip in options.own_addresses:
        raise Refusal(Outcome.SELF_CALL, f"{destination.ip} is an address of the agent itself")
    if destination.port in options.own_ports and destination.ip.is_loopback:
        raise Refusal(Outcome.SELF_CALL, f"{destination} is the agent itself")
    workload, service = _owners(snapshot, options.network, source, destination)
    # Workloads first here, services first below (docs/WIRE.md#outbound).
    addressed = service if workload is None else None
    if addressed is not None:
        waypoint = pick_waypoint(addressed, rng)
        if waypoint is not None:
            return _through_service_waypoint(snapshot, source, destination, addressed, waypoint, rng, options)
    if source.network != options.network:
        workload, service = _owners(snapshot, source.network, source, destination)
    upstream = _upstream(snapshot, source, destination, workload, service, rng)
    if upstream is None:
        return _without_upstream(snapshot, source, destination, (service, addressed), options)
    if upstream.workload.network != source.network:
        return _through_gateway(snapshot, source, destination, upstream, upstream.service, rng, options)
    waypoint = upstream.workload.waypoint if addressed is None else None
    if waypoint is not None and not is_instance(snapshot, source, waypoint):
        return _through_workload_waypoint(snapshot, source, destination, upstream, waypoint, rng, options)
    if upstream.service is not None:
        found = _direct(snapshot, destination, upstream, rng, options)
        if upstream.workload.addresses or found.hop is not Hop.TCP:
            return found
        return _named(snapshot, source, found, upstream.workload.hostname, rng, options)
    # Nothing is chosen for what was dialled by its own address: so once, until the state is another.
    key = destination, upstream.workload.uid
    route = snapshot.routes_memo.get(key)
    if route is None:
        if len(snapshot.routes_memo) >= ROUTES_KEPT:
            snapshot.routes_memo.clear()
        route = snapshot.routes_memo[key] = _direct(snapshot, destination, upstream, rng, options)
    return route


def _owners(
    snapshot: Snapshot, network: str, source: Workload, destination: SocketAddress
) -> tuple[Workload | None, Service | None]:
    """The workload and the service that have the address."""
    return (
        snapshot.workload_at(network, destination.ip),
        snapshot.service_at(network, destination.ip, source.namespace),
    )


def _upstream(
    snapshot: Snapshot,
    source: Workload,
    destination: SocketAddress,
    workload: Workload | None,
    service: Service | None,
    rng: Random,
) -> Upstream | None:
    if service is not None:
        return from_service(snapshot, source, service, destination.port, Purpose.STANDARD, rng)
    return Upstream(workload, destination.port) if workload else None


def _without_upstream(
    snapshot: Snapshot,
    source: Workload,
    destination: SocketAddress,
    services: tuple[Service | None, ...],
    options: Options,
) -> Route:
    """Passthrough, but never for an address that a Service owns, unless that Service asks for it.

    Nor where what is refused is or may be there: a range that passes through knows nothing of who is in it.
    """
    owners = [service for service in services if service is not None]
    for service in owners:
        if service.load_balancing.mode is not Mode.PASSTHROUGH:
            raise _no_upstream(destination, service)
    if owners:
        _refuse_refused(snapshot, source, destination, options)
    else:
        _refuse_unknown(snapshot, source, destination, options)
    return Route(Hop.PASSTHROUGH, destination)


def _no_upstream(destination: SocketAddress, service: Service) -> Refusal:
    if destination.port not in service.ports:
        declared = ", ".join(map(str, service.ports)) or "none"
        return Refusal(
            Outcome.UNDECLARED_SERVICE_PORT,
            f"Service {service.key} has no port {destination.port} (it declares {declared})",
        )
    return Refusal(
        Outcome.NO_HEALTHY_UPSTREAM, f"Service {service.key} has no healthy endpoint for {destination.port}"
    )


def _refuse_refused(
    snapshot: Snapshot, source: Workload, destination: SocketAddress, options: Options, asked_for: str = ""
) -> None:
    """What the control plane describes in a way that cannot be used is spoken to by nobody in the clear."""
    key = NetworkAddress(source.network, destination.ip)
    refused = snapshot.refused_addresses
    if key in refused:
        text = f"{destination}{asked_for} is of the mesh, and what the control plane says of it cannot be used here"
        raise _not_there(Outcome.UNKNOWN_MESH_DESTINATION, text, key, options)
    if refused.is_anything:
        text = (
            f"{destination}{asked_for} may be what the control plane describes in a way that nobody can read"
        )
        raise _not_there(Outcome.UNKNOWN_MESH_DESTINATION, text, key, options)


def _refuse_unknown(
    snapshot: Snapshot, source: Workload, destination: SocketAddress, options: Options, asked_for: str = ""
) -> None:
    _refuse_refused(snapshot, source, destination, options, asked_for)
    key = NetworkAddress(source.network, destination.ip)
    for cidr in options.mesh_cidrs:
        if destination.ip in cidr:
            text = f"{destination}{asked_for} lies in {cidr} of the mesh, but no workload or service has it"
            raise _not_there(Outcome.UNKNOWN_MESH_DESTINATION, text, key, options)
    if options.refuse_unknown:
        text = (
            f"no workload or service has {destination}, and destinations unknown to the mesh are refused here"
        )
        raise _not_there(Outcome.UNKNOWN_MESH_DESTINATION, text, key, options)
    if options.is_partial and str(key) not in options.absent:
        text = f"the control plane has not said who has {destination}{asked_for}"
        raise Unknown(Outcome.UNKNOWN_MESH_DESTINATION, text, key, is_final=False)


def _not_there(
    outcome: Outcome, text: str, key: NetworkAddress | NamespacedHostname, options: Options
) -> Refusal:
    return Refusal(outcome, text) if str(key) in options.absent else Unknown(outcome, text, key)


def _no_gateway(
    snapshot: Snapshot,
    source: Workload,
    gateway: GatewayAddress,
    outcome: Outcome,
    text: str,
    options: Options,
) -> Refusal:
    if options.is_partial and not is_there(snapshot, gateway, source.namespace):
        return _not_there(outcome, text, gateway.destination, options)
    return Refusal(outcome, text)


def _through_service_waypoint(
    snapshot: Snapshot,
    source: Workload,
    destination: SocketAddress,
    service: Service,
    waypoint: GatewayAddress,
    rng: Random,
    options: Options,
) -> Route:
    hop = _waypoint(snapshot, source, waypoint, f"Service {service.key}", rng, options)
    if hop.workload.network != source.network:
        return _through_gateway(snapshot, source, destination, hop, service, rng, options)
    return _by_waypoint(hop, waypoint, destination, service, rng, options)


def _through_workload_waypoint(
    snapshot: Snapshot,
    source: Workload,
    destination: SocketAddress,
    upstream: Upstream,
    waypoint: GatewayAddress,
    rng: Random,
    options: Options,
) -> Route:
    hop = _waypoint(snapshot, source, waypoint, f"workload {upstream.workload.uid}", rng, options)
    if hop.workload.network != source.network:
        raise _no_route(source, hop.workload)
    return _by_waypoint(hop, waypoint, destination, upstream.service, rng, options)


def _waypoint(
    snapshot: Snapshot, source: Workload, waypoint: GatewayAddress, user: str, rng: Random, options: Options
) -> Upstream:
    """An instance of it; without one the connection is refused, it never goes past."""
    hop = find_gateway(snapshot, source, waypoint, Purpose.WAYPOINT, rng)
    if hop is None:
        text = f"waypoint {waypoint} of {user} cannot be resolved: it does not exist or has no endpoint"
        raise _no_gateway(snapshot, source, waypoint, Outcome.UNKNOWN_WAYPOINT, text, options)
    return hop


def _by_waypoint(
    hop: Upstream,
    waypoint: GatewayAddress,
    destination: SocketAddress,
    service: Service | None,
    rng: Random,
    options: Options,
) -> Route:
    """To the waypoint, which is told the address that was dialled."""
    return Route(
        Hop.HBONE,
        address_of(hop, preferred_ip(waypoint, destination.ip), options.names, rng),
        authority=str(destination),
        accepted=hop.accepted,
        destination=hop.workload,
        service=service,
    )


def _through_gateway(
    snapshot: Snapshot,
    source: Workload,
    destination: SocketAddress,
    upstream: Upstream,
    service: Service | None,
    rng: Random,
    options: Options,
) -> Route:
    """To another network: a tunnel to its gateway, and in it one to the upstream (docs/WIRE.md#outbound)."""
    if service is None:
        raise _no_route(source, upstream.workload)
    gateway = upstream.workload.network_gateway
    if gateway is None:
        raise Refusal(
            Outcome.UNKNOWN_GATEWAY,
            f"workload {upstream.workload.uid} is in network {upstream.workload.network!r}, which names no gateway",
        )
    hop = find_gateway(snapshot, source, gateway, Purpose.STANDARD, rng)
    if hop is None:
        text = f"gateway {gateway} of network {upstream.workload.network!r} cannot be resolved"
        raise _no_gateway(snapshot, source, gateway, Outcome.UNKNOWN_GATEWAY, text, options)
    return Route(
        Hop.DOUBLE_HBONE,
        address_of(hop, preferred_ip(gateway, destination.ip), options.names, rng),
        authority=f"{service.hostname}:{destination.port}",
        accepted=hop.accepted,
        destination=hop.workload,
        service=service,
        inner_accepted=service_identities(upstream.service),
    )


def _direct(
    snapshot: Snapshot, destination: SocketAddress, upstream: Upstream, rng: Random, options: Options
) -> Route:
    application = address_of(upstream, destination.ip, options.names, rng)
    if upstream.workload.protocol is TunnelProtocol.NONE:
        # Another one that cannot be used has this address as well, and may be whom TLS would be spoken with.
        key = NetworkAddress(upstream.workload.network, application.ip)
        if key in snapshot.refused_addresses:
            text = f"{application} is {upstream.workload.uid} in the clear, and also what cannot be used here"
            raise _not_there(Outcome.UNKNOWN_MESH_DESTINATION, text, key, options)
        return Route(Hop.TCP, application, destination=upstream.workload, service=upstream.service)
    return Route(
        Hop.HBONE,
        SocketAddress(application.ip, HBONE.port),
        authority=str(application),
        accepted=upstream.accepted,
        destination=upstream.workload,
        service=upstream.service,
    )


def _named(
    snapshot: Snapshot, source: Workload, route: Route, hostname: str, rng: Random, options: Options
) -> Route:
    """To what a host name stands for, which whoever serves the name has chosen.

    An address of the mesh is reached as if it had been dialled itself: a name is no way past mutual TLS, a waypoint,
    or a refusal. Others the pod may dial by itself too.
    """
    named = route.target
    if named.ip not in options.own_addresses and not any(_owners(snapshot, source.network, source, named)):
        _refuse_unknown(snapshot, source, named, replace(options, refuse_unknown=False), f" ({hostname})")
        return route
    # Names are looked up for one of them only: two could stand for each other.
    nothing = NamedHosts(f"{hostname} stands for {named}, which stands for another host name")
    found = resolve(snapshot, source, named, rng, replace(options, names=nothing))
    return replace(found, hostname=hostname)


def _no_route(source: Workload, workload: Workload) -> Refusal:
    return Refusal(
        Outcome.NO_ROUTE_BETWEEN_NETWORKS,
        f"workload {workload.uid} is in network {workload.network!r}, {source.uid} in {source.network!r}: "
        "only Services can be reached across networks",
    )
