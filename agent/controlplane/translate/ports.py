"""Which port of a workload each port of a service leads to, for every pair of kinds, as istiod maps them. Pure.

A port that nobody has is left out for that workload. Ports of other protocols than TCP are nobody's here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.controlplane.read.mesh_objects import Endpoint as Outsider
from agent.controlplane.read.mesh_objects import EndpointSlice, EntryPort, ServiceEntry, WorkloadEntry
from agent.controlplane.read.objects import Pod, Service
from agent.pb import workload_pb2 as wds

Pair = tuple[int, int]
"""Port of the service, port of the workload."""


def tcp_ports(entry: ServiceEntry) -> Iterator[EntryPort]:
    return (port for port in entry.ports if port.protocol != "UDP")


def port_list(pairs: Iterable[Pair]) -> wds.PortList:
    return wds.PortList(ports=[wds.Port(service_port=port, target_port=target) for port, target in pairs])


def on_pod(service: Service | ServiceEntry, pod: Pod) -> Iterator[Pair]:
    """A name means the first TCP port of a container that has it; of an entry, the name of its own port."""
    if isinstance(service, ServiceEntry):
        for port in tcp_ports(service):
            own = named_port(pod, port.name) if port.name else None
            yield port.number, own or port.target or port.number
        return
    for each in service.ports:
        if each.protocol == "TCP":
            target = each.target if isinstance(each.target, int) else named_port(pod, each.target)
            if target is not None:
                yield each.port, target


def on_workload_entry(service: Service | ServiceEntry, entry: WorkloadEntry) -> Iterator[Pair]:
    """Its own ports go by the name of the service's port; a named target by that of the target."""
    if isinstance(service, ServiceEntry):
        yield from on_endpoint(service, entry.endpoint)
        return
    for port in service.ports:
        own = entry.endpoint.ports
        if port.protocol != "TCP":
            continue
        if isinstance(port.target, str):
            if port.target in own:
                yield port.port, own[port.target]
        else:
            yield port.port, own.get(port.name, port.target)


def on_endpoint(entry: ServiceEntry, endpoint: Outsider) -> Iterator[Pair]:
    for port in tcp_ports(entry):
        yield port.number, endpoint.ports.get(port.name) or port.target or port.number


def on_slice(service: Service, found: EndpointSlice) -> Iterator[Pair]:
    """By name; one without a name goes with the port that has none."""
    numbers = {port.name: port.number for port in reversed(found.ports)}
    for port in service.ports:
        if port.protocol == "TCP" and port.name in numbers:
            yield port.port, numbers[port.name]


def named_port(pod: Pod, name: str) -> int | None:
    return next((p.number for p in pod.ports if p.name == name and p.protocol == "TCP"), None)
