"""The objects of a mesh by what is asked of them: who selects a pod, and which pods something selects. Pure.

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
from agent.controlplane.read.objects import (
    EVERYWHERE,
    AuthorizationPolicy,
    Key,
    Namespace,
    Node,
    Object,
    PeerAuthentication,
    Pod,
    Service,
)
from agent.controlplane.translate.authorization_policy import why_left_out
from agent.controlplane.translate.mesh import Mesh, discovered
from agent.controlplane.translate.peer_authentication import PeerAuthentications
from agent.controlplane.translate.selection import Selection, by_namespace, selects

Label = tuple[str, str]
T = TypeVar("T", bound=Object)


class MeshIndex:
    """Of an inventory of which everything counts. ExternalNames are no Services here, and policies those in force."""

    def __init__(self, inventory: Inventory, mesh: Mesh) -> None:
        self.mesh = mesh
        self.namespaces: Mapping[str, Namespace] = inventory.namespaces
        self.nodes: Mapping[str, Node] = inventory.nodes
        self.pods: Mapping[Key, Pod] = _by_key(inventory.pods)
        self.services: Mapping[Key, Service] = _by_key(filter(_has_address, inventory.services))
        self.policies: Mapping[Key, AuthorizationPolicy] = _by_key(filter(_is_enforced, inventory.policies))
        self.peers: Mapping[Key, PeerAuthentication] = _by_key(inventory.peer_authentications)
        labelled: dict[Label, dict[Key, Pod]] = {}
        for pod in inventory.pods:
            for label in pod.meta.labels.items():
                labelled.setdefault(label, {})[pod.meta.key] = pod
        self._labelled: Mapping[Label, Mapping[Key, Pod]] = labelled
        self._services = by_namespace(self.services.values(), _namespace, _service_selector)
        self._policies = by_namespace(self.policies.values(), _namespace, _policy_selector)
        self.modes = PeerAuthentications(inventory.peer_authentications, mesh.root_namespace)

    def changed(self, changes: Changes) -> MeshIndex:
        """With objects gone and come, of those that count."""
        after = copy.copy(self)
        gone, come = collect(changes.gone.values()), collect(changes.come.values())
        after.namespaces = _renamed(self.namespaces, gone.namespaces, come.namespaces)
        after.nodes = _renamed(self.nodes, gone.nodes, come.nodes)
        if gone.pods or come.pods:
            after.pods = _replaced(self.pods, gone.pods, come.pods)
            after._labelled = self._relabelled(gone.pods, come.pods)
        if gone.services or come.services:
            after.services = _replaced(self.services, gone.services, filter(_has_address, come.services))
            after._services = _reselected(
                self._services, after.services, (*gone.services, *come.services), _service_selector
            )
        if gone.policies or come.policies:
            after.policies = _replaced(self.policies, gone.policies, filter(_is_enforced, come.policies))
            after._policies = _reselected(
                self._policies, after.policies, (*gone.policies, *come.policies), _policy_selector
            )
        if gone.peer_authentications or come.peer_authentications:
            after.peers = _replaced(self.peers, gone.peer_authentications, come.peer_authentications)
            after.modes = PeerAuthentications(after.peers.values(), self.mesh.root_namespace)
        return after

    def counting(self, changes: Changes) -> Changes:
        """Those of the changes that count in the mesh."""
        if not self.mesh.discovery:
            return changes
        return Changes(*(self._discovered(objects) for objects in (changes.gone, changes.come)))

    def _discovered(self, objects: Mapping[Key, Object]) -> Mapping[Key, Object]:
        made = collect(objects.values())
        found = discovered(dataclasses.replace(made, namespaces=self.namespaces), self.mesh)
        guards: tuple[Object, ...] = (*found.policies, *found.peer_authentications)
        others: tuple[Object, ...] = (*made.namespaces.values(), *made.nodes.values())
        return {o.meta.key: o for o in (*found.pods, *found.services, *guards, *others)}

    # -- who selects a pod

    def services_of(self, pod: Pod) -> list[Service]:
        selection = self._services.get(pod.meta.namespace)
        return selection.finds(pod.meta.labels) if selection else []

    def policies_of(self, pod: Pod) -> Iterator[AuthorizationPolicy]:
        """Those whose selector finds it: of its namespace and of the root namespace (for all namespaces)."""
        for namespace in {pod.meta.namespace, self.mesh.root_namespace}:
            if namespace in self._policies:
                yield from self._policies[namespace].finds(pod.meta.labels)

    # -- which pods something concerns

    def pods_of(self, made: Object) -> Iterable[Pod]:
        """The pods whose workload may be another one with that object than without it."""
        match made:
            case Pod():
                known = self.pods.get(made.meta.key)
                return () if known is None else (known,)
            case Node():
                return (p for p in self.pods.values() if p.node == made.meta.name)
            case Service():
                return self._selected(made.selector, made.meta.namespace) if made.selector else ()
            case AuthorizationPolicy():
                everywhere = made.meta.namespace in (EVERYWHERE, self.mesh.root_namespace)
                where = None if everywhere else made.meta.namespace
                return self._selected(made.selector, where) if made.selector else ()
            case PeerAuthentication():
                everywhere = not made.selector and made.meta.namespace in (
                    EVERYWHERE,
                    self.mesh.root_namespace,
                )
                return self._selected(made.selector or {}, None if everywhere else made.meta.namespace)
        return ()

    def services_in(self, namespace: str) -> Iterator[Service]:
        return (s for s in self.services.values() if s.meta.namespace == namespace)

    def _selected(self, selector: Mapping[str, str], namespace: str | None) -> Iterator[Pod]:
        label = next(iter(selector.items()), None)
        candidates = self.pods if label is None else self._labelled.get(label, {})
        for pod in candidates.values():
            if namespace in (None, pod.meta.namespace) and selects(selector, pod.meta.labels):
                yield pod

    def _relabelled(self, gone: Iterable[Pod], come: Iterable[Pod]) -> Mapping[Label, Mapping[Key, Pod]]:
        tables: dict[Label, dict[Key, Pod]] = {}

        def table(label: Label) -> dict[Key, Pod]:
            if label not in tables:
                tables[label] = dict(self._labelled.get(label, {}))
            return tables[label]

        for pod in gone:
            for label in pod.meta.labels.items():
                table(label).pop(pod.meta.key, None)
        for pod in come:
            for label in pod.meta.labels.items():
                table(label)[pod.meta.key] = pod
        return {**self._labelled, **tables}


def _by_key(objects: Iterable[T]) -> dict[Key, T]:
    return {o.meta.key: o for o in objects}


def _renamed(before: Mapping[str, T], gone: Mapping[str, T], come: Mapping[str, T]) -> Mapping[str, T]:
    if not gone and not come:
        return before
    return {name: made for name, made in before.items() if name not in gone} | dict(come)


def _replaced(before: Mapping[Key, T], gone: Iterable[T], come: Iterable[T]) -> dict[Key, T]:
    after = dict(before)
    for made in gone:
        after.pop(made.meta.key, None)
    after.update(_by_key(come))
    return after


def _reselected(
    before: Mapping[str, Selection[T]],
    objects: Mapping[Key, T],
    changed: Iterable[T],
    selector_of: Callable[[T], Mapping[str, str] | None],
) -> dict[str, Selection[T]]:
    """The selections of the namespaces in which something has changed made anew."""
    stale = {o.meta.namespace for o in changed}
    there = (o for o in objects.values() if o.meta.namespace in stale)
    kept = {namespace: selection for namespace, selection in before.items() if namespace not in stale}
    return kept | by_namespace(there, _namespace, selector_of)


def _namespace(made: Object) -> str:
    return made.meta.namespace


def _service_selector(service: Service) -> Mapping[str, str] | None:
    return service.selector


def _policy_selector(policy: AuthorizationPolicy) -> Mapping[str, str] | None:
    return policy.selector


def _has_address(service: Service) -> bool:
    return service.kind != "ExternalName"


def _is_enforced(policy: AuthorizationPolicy) -> bool:
    return why_left_out(policy) is None
