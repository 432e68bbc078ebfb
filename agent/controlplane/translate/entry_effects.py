"""What entries, EndpointSlices and Services without a selector ask for and do not get. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.mesh_objects import EndpointSlice, ServiceEntry, WorkloadEntry
from agent.controlplane.read.objects import Service
from agent.controlplane.read.remarks import Remark, Scope
from agent.controlplane.translate.hosts import HIDDEN, Hosts
from agent.controlplane.translate.mesh import Mesh, namespace_labels
from agent.controlplane.translate.networks import REMOTE_CLASS, gateways_by_network
from agent.controlplane.translate.relation import Relation
from agent.controlplane.translate.remarking import remark


def entry_remarks(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    services = {s.meta.key: s for s in inventory.services if s.kind != "ExternalName"}
    claims = Relation[str, ServiceEntry](lambda e: e.hosts, inventory.service_entries)
    names = {e.meta.namespace for e in inventory.service_entries}
    hosts = Hosts(services, claims, mesh, {n: namespace_labels(inventory.namespaces, n) for n in names})
    for entry in inventory.service_entries:
        yield from _of_entry(entry, hosts)
    for found in inventory.slices:
        if found.service:
            service = services.get(("Service", found.meta.namespace, found.service))
            yield from _of_slice(found, service)
    yield from _of_networks(inventory, mesh)
    yield from _of_unselective(inventory)


def _of_entry(entry: ServiceEntry, hosts: Hosts) -> Iterator[Remark]:
    scope = Scope(entry.meta.namespace)
    for doubt in entry.doubts:
        yield remark(entry, doubt, scope=scope)
    if entry.unused:
        yield remark(entry, f"no effect here: {', '.join(entry.unused)}", is_note=True)
    for port in entry.ports:
        if port.protocol == "UDP":
            yield remark(
                entry, f"port {port.number}: ztun serves TCP alone, so UDP is as without a mesh", is_note=True
            )
    if hosts.visibility(entry.meta.namespace) == HIDDEN:
        yield remark(entry, "serviceEntryVisibility of the mesh config hides it from everybody", is_note=True)
        return
    is_nowhere = not (entry.addresses or entry.allocated or entry.unaddressed_hosts)
    named = [host for host in entry.hosts if not host.startswith("*")]
    if is_nowhere and named and not entry.endpoints and not entry.selector:
        problem = f"{', '.join(named)}: no address is theirs, so connections there are as without the entry"
        yield remark(entry, problem, "write addresses, or resolution: DNS", scope, field="spec.hosts")
    own = set(hosts.of_entry(entry))
    for host in entry.hosts:
        if host not in own:
            other = hosts.service_of(host) or next(e for e in hosts.rivals(host) if host in hosts.of_entry(e))
            problem = f"host {host} is that of {other.meta} at {other.meta.place}, which comes first"
            yield remark(entry, problem, "keep one of them", scope)


def _of_slice(found: EndpointSlice, service: Service | None) -> Iterator[Remark]:
    if service is None:
        problem = f"there is no Service {found.meta.namespace}/{found.service}, so it is for nobody"
        yield remark(found, problem, is_note=True)
        return
    wanted = {port.name for port in service.ports if port.protocol == "TCP"}
    if found.ports and not wanted & {port.name for port in found.ports}:
        named = ", ".join(repr(port.name) for port in found.ports)
        problem = f"no port of its Service is called {named}, so nobody reaches its endpoints"
        yield remark(found, problem, "name its ports as the Service does", Scope(found.meta.namespace))


def _of_networks(inventory: Inventory, mesh: Mesh) -> Iterator[Remark]:
    """Who is in a network that nothing leads into."""
    reached = {mesh.network, "", *gateways_by_network(inventory.gateways)}
    endpoints: list[tuple[WorkloadEntry | ServiceEntry, str, str]] = [
        *((each, "spec.network", each.endpoint.network) for each in inventory.workload_entries),
        *(
            (entry, f"spec.endpoints[{index}].network", each.network)
            for entry in inventory.service_entries
            for index, each in enumerate(entry.endpoints)
        ),
    ]
    for made, field, network in endpoints:
        if network not in reached:
            own = f"that of the mesh is {mesh.network!r}" if mesh.network else "the mesh has none"
            problem = (
                f"no gateway leads into network {network!r}, so nobody reaches it from another one ({own})"
            )
            remedy = (
                f"leave it out where it is one network, or write a Gateway of class {REMOTE_CLASS} for it"
            )
            yield remark(made, problem, remedy, Scope(made.meta.namespace), field=field)


def _of_unselective(inventory: Inventory) -> Iterator[Remark]:
    """Services that neither choose pods nor have slices: their endpoints may still come."""
    filled = {(each.meta.namespace, each.service) for each in inventory.slices}
    for service in inventory.services:
        if not service.selector and not service.is_for_others and service.meta.key[1:] not in filled:
            problem = "it has no selector, and no EndpointSlice is of it, so nobody is behind it"
            yield remark(service, problem, is_note=True)
