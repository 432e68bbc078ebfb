"""Waypoints and network gateways: where one is, and who is one. docs/WIRE.md#waypoints.

A waypoint that is configured and cannot be resolved refuses the connection: going round it would skip the
policies it enforces.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agent.model.address import IP, NetworkAddress, SocketAddress
from agent.model.service import Service
from agent.model.workload import GatewayAddress, Health, Workload
from agent.state.balance import Purpose, weighted_index
from agent.state.snapshot import Snapshot
from agent.state.upstream import Upstream, from_address, from_service


def pick_waypoint(service: Service, rng: Random) -> GatewayAddress | None:
    """The waypoint of this connection: drawn from the weighted ones, else the primary one."""
    weights = tuple(w.weight for w in service.weighted_waypoints)
    index = weighted_index(weights, rng)
    return service.waypoint if index is None else service.weighted_waypoints[index].waypoint


def waypoints_of(resource: Workload | Service) -> tuple[GatewayAddress, ...]:
    """Every waypoint that traffic to the resource may come through.

    Also one of weight 0: a client that has not heard of the new weights yet may still use it.
    """
    weighted = resource.weighted_waypoints if isinstance(resource, Service) else ()
    primary = () if resource.waypoint is None else (resource.waypoint,)
    return (*primary, *(w.waypoint for w in weighted))


def find_gateway(
    snapshot: Snapshot, source: Workload, gateway: GatewayAddress, purpose: Purpose, rng: Random
) -> Upstream | None:
    """The instance of a waypoint or gateway that takes this connection, or None if there is none."""
    where, port = gateway.destination, gateway.hbone_port
    if isinstance(where, NetworkAddress):
        address = SocketAddress(where.ip, port)
        return from_address(snapshot, source, where.network, address, purpose, rng)
    service = _service_of(snapshot, gateway, source.namespace)
    if service is not None:
        return from_service(snapshot, source, service, port, purpose, rng)
    workload = _alone(snapshot, gateway)
    return Upstream(workload, port) if workload else None


def is_there(snapshot: Snapshot, gateway: GatewayAddress, namespace: str) -> bool:
    """Whether anything is known under its name, with or without endpoints."""
    return _service_of(snapshot, gateway, namespace) is not None or _alone(snapshot, gateway) is not None


def preferred_ip(gateway: GatewayAddress, original: IP) -> IP:
    """The address whose family decides how to dial it: the gateway's own, else the one the client used."""
    where = gateway.destination
    return where.ip if isinstance(where, NetworkAddress) else original


def is_instance(snapshot: Snapshot, workload: Workload, gateway: GatewayAddress) -> bool:
    """Whether the workload is (one of the instances of) the waypoint.

    Endpoints that are not ready count too: a waypoint that is starting must not be sent round itself.
    """
    where = gateway.destination
    service = _service_of(snapshot, gateway, workload.namespace)
    if isinstance(where, NetworkAddress):
        is_there = workload.network == where.network and where.ip in workload.addresses
        return is_there or (service is not None and _serves(snapshot, workload, service))
    if service is not None:
        return _serves(snapshot, workload, service)
    return bool(workload.hostname) and (workload.namespace, workload.hostname) == where


def instances(
    snapshot: Snapshot, gateway: GatewayAddress, namespace: str, *, everyone: bool
) -> Iterator[Workload]:
    """The workloads that are the waypoint for a namespace: those that may be used, or `everyone` that serves it."""
    service = _service_of(snapshot, gateway, namespace)
    if service is None:
        alone = _alone(snapshot, gateway)
        if alone is not None and (everyone or alone.status is Health.HEALTHY):
            yield alone
    elif everyone:
        yield from snapshot.linked(service.key)
    else:
        yield from (endpoint.workload for endpoint in snapshot.endpoints(service.key).all)


def _service_of(snapshot: Snapshot, gateway: GatewayAddress, namespace: str) -> Service | None:
    where = gateway.destination
    if isinstance(where, NetworkAddress):
        return snapshot.service_at(where.network, where.ip, namespace)
    return snapshot.services.get(where)


def _alone(snapshot: Snapshot, gateway: GatewayAddress) -> Workload | None:
    """The one workload that it is, where it is no Service."""
    where = gateway.destination
    if isinstance(where, NetworkAddress):
        return snapshot.workload_at(where.network, where.ip)
    return snapshot.workload_by_hostname(where.namespace, where.hostname)


def _serves(snapshot: Snapshot, workload: Workload, service: Service) -> bool:
    known = snapshot.workloads.get(workload.uid)
    return known is not None and service.key in known.services
