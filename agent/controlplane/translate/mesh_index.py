"""The objects of a mesh by what is asked of them: who selects a workload, and who else an object is about. Pure.

A value: `changed` answers another one and leaves the first as it was. Both share what they have alike, so that a change
costs what has changed and, for each kind of object in it, a copy of a table.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from agent.controlplane.read.changes import Changes
from agent.controlplane.read.inventory import Inventory, collect
from agent.controlplane.read.mesh_objects import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    ServiceEntry,
    WorkloadEntry,
)
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import (
    AuthorizationPolicy,
    ConnectionLimit,
    Labelled,
    Namespace,
    Node,
    Object,
    PeerAuthentication,
    Pod,
    Service,
)
from agent.controlplane.translate.authorization_policy import why_left_out
from agent.controlplane.translate.hosts import Hosts
from agent.controlplane.translate.limits import ConnectionLimits
from agent.controlplane.translate.mesh import Mesh, discovered, namespace_labels
from agent.controlplane.translate.networks import gateways_by_network
from agent.controlplane.translate.peer_authentication import PeerAuthentications
from agent.controlplane.translate.relation import Relation
from agent.controlplane.translate.selection import Selection, by_namespace
from agent.controlplane.translate.waypoints import Reference, Waypoints, references, references_of
from agent.pb import workload_pb2 as wds

Label = tuple[str, str]
Selecting = Service | ServiceEntry
"""What workloads are part of."""
T = TypeVar("T", bound=Object)


class MeshIndex:
    """Of an inventory of which everything counts. ExternalNames are no Services here, and policies those in force."""

    def __init__(self, inventory: Inventory, mesh: Mesh) -> None:
        self.mesh = mesh
        self.namespaces: Mapping[str, Namespace] = inventory.namespaces
        self.nodes: Mapping[str, Node] = inventory.nodes
        self.pods: Mapping[Key, Pod] = _by_key(inventory.pods)
        self.services: Mapping[Key, Service] = _by_key(filter(_has_address, inventory.services))
        self.slices: Mapping[Key, EndpointSlice] = _by_key(inventory.slices)
        self.workload_entries: Mapping[Key, WorkloadEntry] = _by_key(inventory.workload_entries)
        self.service_entries: Mapping[Key, ServiceEntry] = _by_key(inventory.service_entries)
        self.gateways: Mapping[Key, Gateway] = _by_key(inventory.gateways)
        self.classes: Mapping[Key, GatewayClass] = _by_key(inventory.gateway_classes)
        self.policies: Mapping[Key, AuthorizationPolicy] = _by_key(filter(_is_enforced, inventory.policies))
        self.peers: Mapping[Key, PeerAuthentication] = _by_key(inventory.peer_authentications)
        self._labelled = Relation[Label, Labelled](_labels, _labelled(inventory))
        self._referring = Relation[Reference, Labelled | Service](_references, _referring(inventory))
        self._slices_of = Relation[Reference, EndpointSlice](_service_of, inventory.slices)
        self._slices_at = Relation[Reference, EndpointSlice](_pods_of, inventory.slices)
        self._claims = Relation[str, ServiceEntry](_hosts, inventory.service_entries)
        self._services: Mapping[str, Selection[Selecting]] = by_namespace(
            self._selecting(), _namespace, _service_selector
        )
        self._policies: Mapping[str, Selection[AuthorizationPolicy]] = by_namespace(
            self.policies.values(), _namespace, _policy_selector
        )
        self.modes = PeerAuthentications(inventory.peer_authentications, mesh.root_namespace)
        self._limits: Mapping[Key, ConnectionLimit] = _by_key(inventory.connection_limits)
        self.limits = ConnectionLimits(inventory.connection_limits, mesh)
        self._derive()

    def changed(self, changes: Changes) -> MeshIndex:
        """With objects gone and come, of those that count."""
        after = copy.copy(self)
        gone, come = collect(changes.gone.values()), collect(changes.come.values())
        after.namespaces = _renamed(self.namespaces, gone.namespaces, come.namespaces)
        after.nodes = _renamed(self.nodes, gone.nodes, come.nodes)
        after.pods = _replaced(self.pods, gone.pods, come.pods)
        after.services = _replaced(self.services, gone.services, filter(_has_address, come.services))
        after.slices = _replaced(self.slices, gone.slices, come.slices)
        after.workload_entries = _replaced(
            self.workload_entries, gone.workload_entries, come.workload_entries
        )
        after.service_entries = _replaced(self.service_entries, gone.service_entries, come.service_entries)
        after.gateways = _replaced(self.gateways, gone.gateways, come.gateways)
        after.classes = _replaced(self.classes, gone.gateway_classes, come.gateway_classes)
        after.policies = _replaced(self.policies, gone.policies, filter(_is_enforced, come.policies))
        after.peers = _replaced(self.peers, gone.peer_authentications, come.peer_authentications)
        after._labelled = self._labelled.changed(_labelled(gone), _labelled(come))
        after._referring = self._referring.changed(_referring(gone), _referring(come))
        after._slices_of = self._slices_of.changed(gone.slices, come.slices)
        after._slices_at = self._slices_at.changed(gone.slices, come.slices)
        after._claims = self._claims.changed(gone.service_entries, come.service_entries)
        selecting: list[Selecting] = [*gone.services, *come.services]
        selecting += (*gone.service_entries, *come.service_entries)
        after._services = _reselected(self._services, after._selecting, selecting, _service_selector)
        after._policies = _reselected(
            self._policies, after.policies.values, (*gone.policies, *come.policies), _policy_selector
        )
        if gone.peer_authentications or come.peer_authentications:
            after.modes = PeerAuthentications(after.peers.values(), self.mesh.root_namespace)
        if gone.connection_limits or come.connection_limits:
            after._limits = _replaced(self._limits, gone.connection_limits, come.connection_limits)
            after.limits = ConnectionLimits(after._limits.values(), self.mesh)
        after._derive()
        return after

    def _derive(self) -> None:
        """What costs little to make."""
        self.waypoints = Waypoints(self.gateways, self.classes, self.namespaces, self.mesh.network)
        self.gateway_of: Mapping[str, wds.GatewayAddress] = gateways_by_network(self.gateways.values())
        labels = {} if self.mesh.entry_visibility is None else self._namespace_labels()
        self.hosts = Hosts(self.services, self._claims, self.mesh, labels)

    def _namespace_labels(self) -> Mapping[str, Mapping[str, str]]:
        names = {entry.meta.namespace for entry in self.service_entries.values()}
        return {name: namespace_labels(self.namespaces, name) for name in names}

    def counting(self, changes: Changes) -> Changes:
        """Those of the changes that count in the mesh."""
        if not self.mesh.discovery:
            return changes
        return Changes(*(self._discovered(objects) for objects in (changes.gone, changes.come)))

    def _discovered(self, objects: Mapping[Key, Object]) -> Mapping[Key, Object]:
        made = dataclasses.replace(collect(objects.values()), namespaces=self.namespaces)
        out = {o.meta.key for o in made.placed()} - {o.meta.key for o in discovered(made, self.mesh).placed()}
        return {key: o for key, o in objects.items() if key not in out}

    # -- who selects a workload

    def services_of(self, workload: Pod | WorkloadEntry) -> list[Selecting]:
        """Those that find it by its labels."""
        selection = self._services.get(workload.meta.namespace)
        return selection.finds(workload.labels) if selection else []

    def slices_of(self, pod: Pod) -> Iterator[tuple[Service, EndpointSlice]]:
        """Those that name the pod, of Services that select nobody themselves."""
        for found in self._slices_at.get((pod.meta.namespace, pod.meta.name)):
            service = self.service_of(found)
            if service is not None and not service.selector and _has(found, pod):
                yield service, found

    def service_of(self, found: EndpointSlice) -> Service | None:
        return self.services.get(("Service", found.meta.namespace, found.service))

    def policies_of(self, workload: Labelled) -> Iterator[AuthorizationPolicy]:
        """Those whose selector finds it: of its namespace and of the root namespace (for all namespaces)."""
        for namespace in {workload.meta.namespace, self.mesh.root_namespace}:
            if namespace in self._policies:
                yield from self._policies[namespace].finds(workload.labels)

    # -- who is found by something

    def labelled(self, label: Label) -> Iterable[Labelled]:
        return self._labelled.get(label)

    def referring(self, gateway: Reference) -> Iterable[Labelled | Service]:
        """What names a Gateway by its own labels."""
        return self._referring.get(gateway)

    def slices_for(self, service: Service) -> Iterable[EndpointSlice]:
        return self._slices_of.get((service.meta.namespace, service.meta.name))

    def owners(self) -> Iterator[Pod | Service | EndpointSlice | WorkloadEntry | ServiceEntry | Gateway]:
        """Everything that has resources of its own."""
        yield from self.pods.values()
        yield from self.services.values()
        yield from self.slices.values()
        yield from self.workload_entries.values()
        yield from self.service_entries.values()
        yield from self.gateways.values()

    def workloads(self) -> Iterator[Labelled]:
        yield from self.pods.values()
        yield from self.workload_entries.values()
        yield from self.service_entries.values()

    def pod(self, namespace: str, name: str) -> Pod | None:
        return self.pods.get(("Pod", namespace, name))

    def _selecting(self) -> Iterator[Selecting]:
        yield from self.services.values()
        yield from self.service_entries.values()


def _by_key(objects: Iterable[T]) -> dict[Key, T]:
    return {o.meta.key: o for o in objects}


def _renamed(before: Mapping[str, T], gone: Mapping[str, T], come: Mapping[str, T]) -> Mapping[str, T]:
    if not gone and not come:
        return before
    return {name: made for name, made in before.items() if name not in gone} | dict(come)


def _replaced(before: Mapping[Key, T], gone: Iterable[T], come: Iterable[T]) -> Mapping[Key, T]:
    gone, come = tuple(gone), tuple(come)
    if not gone and not come:
        return before
    after = dict(before)
    for made in gone:
        after.pop(made.meta.key, None)
    after.update(_by_key(come))
    return after


def _reselected(
    before: Mapping[str, Selection[T]],
    objects: Callable[[], Iterable[T]],
    changed: Iterable[T],
    selector_of: Callable[[T], Mapping[str, str] | None],
) -> Mapping[str, Selection[T]]:
    """The selections of the namespaces in which something has changed made anew."""
    stale = {o.meta.namespace for o in changed}
    if not stale:
        return before
    there = (o for o in objects() if o.meta.namespace in stale)
    kept = {namespace: selection for namespace, selection in before.items() if namespace not in stale}
    return kept | by_namespace(there, _namespace, selector_of)


def _labelled(inventory: Inventory) -> Iterator[Labelled]:
    yield from inventory.pods
    yield from inventory.workload_entries
    yield from inventory.service_entries


def _referring(inventory: Inventory) -> Iterator[Labelled | Service]:
    yield from _labelled(inventory)
    yield from inventory.services


def _labels(made: Labelled) -> Iterable[Label]:
    return made.labels.items()


def _references(made: Labelled | Service) -> Iterator[Reference]:
    if isinstance(made, WorkloadEntry | ServiceEntry):
        return references_of(made)
    return references(made.meta, made.meta.labels)


def _service_of(found: EndpointSlice) -> Iterator[Reference]:
    yield found.meta.namespace, found.service


def _pods_of(found: EndpointSlice) -> Iterator[Reference]:
    for endpoint in found.endpoints:
        if endpoint.pod is not None:
            yield found.meta.namespace, endpoint.pod[0]


def _has(found: EndpointSlice, pod: Pod) -> bool:
    """Whether that very pod is meant: one of the same name may have come after it."""
    wanted = ((pod.meta.name, pod.uid), (pod.meta.name, ""))
    return any(
        e.pod in wanted or (e.pod and not pod.uid and e.pod[0] == pod.meta.name) for e in found.endpoints
    )


def _hosts(entry: ServiceEntry) -> Iterable[str]:
    return entry.hosts


def _namespace(made: Object) -> str:
    return made.meta.namespace


def _service_selector(service: Selecting) -> Mapping[str, str] | None:
    return service.selector


def _policy_selector(policy: AuthorizationPolicy) -> Mapping[str, str] | None:
    return policy.selector


def _has_address(service: Service) -> bool:
    return service.kind != "ExternalName"


def _is_enforced(policy: AuthorizationPolicy) -> bool:
    return why_left_out(policy) is None
