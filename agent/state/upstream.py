"""The workload a connection ends up at, once a service has been balanced: docs/WIRE.md#outbound, step 2.

Shared by `resolve` (the destination itself) and `waypoint` (the hop in between). Pure lookups; what the
result means for the route, and what to refuse, is up to those two.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from agent.model.address import IP, SocketAddress
from agent.model.identity import Identity, IdentityError
from agent.model.outcome import Outcome, Refusal
from agent.model.service import IPFamilies, Mode, Service
from agent.model.workload import Workload
from agent.state.balance import Purpose, choose, target_port
from agent.state.host_names import NamedHosts
from agent.state.snapshot import Snapshot

FAMILY_VERSIONS = {IPFamilies.IPV4_ONLY: 4, IPFamilies.IPV6_ONLY: 6}


class Upstream(NamedTuple):
    """A workload and its port; `service` is the one that was balanced to get there, if one was."""

    workload: Workload
    port: int
    service: Service | None = None

    @property
    def accepted(self) -> tuple[Identity, ...]:
        """Who may answer there: the service's extra names, then the workload itself."""
        return (*service_identities(self.service), self.workload.identity)


def service_identities(service: Service | None) -> tuple[Identity, ...]:
    """The identities among a service's subject alternative names; other names cannot be a peer's."""
    found = []
    for name in service.subject_alt_names if service else ():
        try:
            found.append(Identity.parse(name))
        except IdentityError:
            continue
    return tuple(found)


def from_service(
    snapshot: Snapshot, source: Workload, service: Service, port: int, purpose: Purpose, rng: Random
) -> Upstream | None:
    """An endpoint of the service for one of its ports, or None if it has none to offer."""
    if service.load_balancing.mode is Mode.PASSTHROUGH:
        return None
    endpoint = choose(source, service, snapshot.endpoints(service.key), port, purpose, rng)
    mapped = target_port(service, endpoint, port) if endpoint else None
    return Upstream(endpoint.workload, mapped, service) if endpoint and mapped else None


def from_address(
    snapshot: Snapshot,
    source: Workload,
    network: str,
    address: SocketAddress,
    purpose: Purpose,
    rng: Random,
) -> Upstream | None:
    """What an address means in a network: a service first, then a workload (docs/WIRE.md#outbound)."""
    service = snapshot.service_at(network, address.ip, source.namespace)
    if service is not None:
        return from_service(snapshot, source, service, address.port, purpose, rng)
    workload = snapshot.workload_at(network, address.ip)
    return Upstream(workload, address.port) if workload else None


def address_of(upstream: Upstream, original: IP, names: NamedHosts, rng: Random) -> SocketAddress:
    """Where to dial it; the family of `original`, the address the client used, is preferred."""
    ip = _select_ip(upstream, original)
    if ip is not None:
        return SocketAddress(ip, upstream.port)
    workload = upstream.workload
    if workload.hostname and not workload.addresses:
        return SocketAddress(names.pick(workload.hostname, original.version, rng), upstream.port)
    raise Refusal(
        Outcome.NO_HEALTHY_UPSTREAM, f"workload {workload.uid} has no address that its Service allows"
    )


def _select_ip(upstream: Upstream, original: IP) -> IP | None:
    addresses = upstream.workload.addresses
    if original in addresses:
        return original
    only = FAMILY_VERSIONS.get(upstream.service.ip_families) if upstream.service else None
    allowed = [ip for ip in addresses if only is None or ip.version == only]
    same_family = [ip for ip in allowed if ip.version == original.version]
    return next(iter(same_family or allowed), None)
