"""What a CONNECT at a pod's HBONE port means: docs/WIRE.md#inbound.

Pure. The pod is the one whose address the connection came to, never the one the authority names; the
authority is checked against it. Authorization is a separate question (`policy.evaluate`), asked about the
address returned here. Loopback is never a target: the agent's sockets are not in the pod's namespace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.model.address import IP, AddressError, NetworkAddress, SocketAddress, parse_ip, split_host_port
from agent.model.outcome import Outcome, Refusal, Unknown
from agent.model.service import Service
from agent.model.workload import TunnelToApplication, Workload
from agent.state.resolve import Options
from agent.state.snapshot import Snapshot
from agent.state.waypoint import is_instance, waypoints_of


class InboundTarget(NamedTuple):
    """What to dial for a CONNECT.

    `service` is known only where the authority named one. With a `proxy_target` the application wants a PROXY
    header in front of the bytes, with that as the destination.
    """

    destination: SocketAddress
    service: Service | None = None
    proxy_target: SocketAddress | None = None


def resolve_inbound(
    snapshot: Snapshot, workload: Workload, local: IP, authority: str, options: Options
) -> InboundTarget:
    """The application's address for a CONNECT that reached `workload` at `local`. Raises Refusal."""
    try:
        host, port = split_host_port(authority)
    except AddressError as error:
        raise Refusal(Outcome.BAD_REQUEST, f"authority: {error}") from error
    try:
        ip = parse_ip(host)
    except AddressError:
        return _to_hostname(snapshot, workload, local, host, port, options)
    _check_destination(snapshot, workload, local, ip, options)
    return _target(workload, SocketAddress(local, port), SocketAddress(ip, port), None, options)


def _check_destination(
    snapshot: Snapshot, workload: Workload, local: IP, asked: IP, options: Options
) -> None:
    """The authority must be this pod, or something whose waypoint this pod is."""
    if asked == local or workload.application_tunnel is not None:
        return
    owner = snapshot.workload_at(options.network, asked) or snapshot.service_at(options.network, asked, None)
    if owner is not None and any(is_instance(snapshot, workload, w) for w in waypoints_of(owner)):
        return
    key = NetworkAddress(options.network, asked)
    if owner is None and options.is_partial and str(key) not in options.absent:
        raise Unknown(Outcome.ADDRESS_MISMATCH, f"ip mismatch: {local} != {asked}", key)
    raise Refusal(Outcome.ADDRESS_MISMATCH, f"ip mismatch: {local} != {asked}")


def _to_hostname(
    snapshot: Snapshot, workload: Workload, local: IP, host: str, port: int, options: Options
) -> InboundTarget:
    service = snapshot.service_by_hostname(host, workload.namespace)
    if service is None:
        text = f"no Service with hostname {host!r} is visible here"
        key = next((key for key in workload.services if key.hostname == host), None)
        if key is not None and options.is_partial and str(key) not in options.absent:
            raise Unknown(Outcome.UNKNOWN_MESH_DESTINATION, text, key)
        raise Refusal(Outcome.UNKNOWN_MESH_DESTINATION, text)
    mapped = _port_of(snapshot, workload, service, port)
    if not mapped:
        raise Refusal(
            Outcome.UNDECLARED_SERVICE_PORT,
            f"Service {service.key} has no port {port} that workload {workload.uid} serves",
        )
    vip = _vip(service, options.network)
    asked = SocketAddress(local if vip is None else vip, port)
    return _target(workload, SocketAddress(local, mapped), asked, service, options)


def _port_of(snapshot: Snapshot, workload: Workload, service: Service, port: int) -> int:
    """The pod's own port for a port of the service; 0 where nothing says which it is."""
    return workload.services.get(service.key, {}).get(port, 0) or service.ports.get(port, 0)


def _vip(service: Service, network: str) -> IP | None:
    """The address that stands for a service: of the own network, and IPv4, where there is one."""
    vips = sorted(service.vips, key=lambda vip: (vip.network != network, vip.ip.version))
    return vips[0].ip if vips else None


def _target(
    workload: Workload,
    destination: SocketAddress,
    asked: SocketAddress,
    service: Service | None,
    options: Options,
) -> InboundTarget:
    tunnel = workload.application_tunnel
    if tunnel is not None and tunnel.port is not None:
        destination = SocketAddress(destination.ip, tunnel.port)
    check_not_own(destination, options)
    if tunnel is not None and tunnel.protocol is TunnelToApplication.PROXY:
        return InboundTarget(destination, service, proxy_target=asked)
    return InboundTarget(destination, service)


def check_not_own(destination: SocketAddress, options: Options) -> None:
    """Raises Refusal for the agent's own ports: tunnels in tunnels and loops end here."""
    if destination.port in options.own_ports:
        raise Refusal(Outcome.SELF_CALL, f"{destination} is a port of the agent")


def check_plain(workload: Workload, destination: SocketAddress, options: Options) -> None:
    """Raises Refusal for what no plaintext may reach: the agent's ports, and where headers are believed.

    Whoever speaks to that port without the agent in between could say in a header to be anybody. A tunnel that names
    no port is all of them.
    """
    check_not_own(destination, options)
    tunnel = workload.application_tunnel
    if (
        tunnel is not None
        and tunnel.protocol is TunnelToApplication.PROXY
        and tunnel.port in (None, destination.port)
    ):
        raise Refusal(
            Outcome.POLICY_DENIED,
            f"{destination} takes PROXY headers: only connections by HBONE, which get theirs here, may reach it",
        )


def guess_service(
    snapshot: Snapshot, workload: Workload, port: int, forwarded_host: str | None = None
) -> Service | None:
    """The service a connection was probably meant for. Telemetry only: the client may claim any host.

    One of the pod's services named by the client, else the first whose target is the port.
    """
    own = [service for key in workload.services if (service := snapshot.services.get(key))]
    named = next((s for s in own if s.hostname == forwarded_host), None)
    return named or next((s for s in own if port in _targets(workload, s)), None)


def _targets(workload: Workload, service: Service) -> Iterable[int]:
    return (*service.ports.values(), *workload.services[service.key].values())
