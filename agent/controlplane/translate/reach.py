"""Whom an object is about: everything whose resources may be others with it than without it. Pure.

Asked of the mesh after a change, for what is gone and for what has come. Security: who is missing here keeps what it
was, a policy's name or a waypoint too, until something else changes. So everything that the translation of an object
looks at has its line here, and meshes that are changed step by step are compared with such that are made at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.controlplane.read.mesh_objects import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    ServiceEntry,
    WorkloadEntry,
)
from agent.controlplane.read.objects import (
    EVERYWHERE,
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
from agent.controlplane.translate.mesh import NETWORK_LABEL
from agent.controlplane.translate.mesh_index import MeshIndex
from agent.controlplane.translate.selection import selects
from agent.controlplane.translate.waypoints import CANARY, GATEWAY_NAME, USE, references

Owner = Pod | Service | WorkloadEntry | ServiceEntry | EndpointSlice | Gateway
"""What has resources of its own."""


def concerned(index: MeshIndex, made: Object) -> Iterator[Owner]:
    """Those that are there now; some of them twice."""
    yield from _itself(index, made)
    match made:
        case Node():
            yield from (p for p in index.pods.values() if p.node == made.meta.name)
        case Service():
            yield from _selected_workloads(index, made.selector, made.meta.namespace)
            for found in index.slices_for(made):
                yield from _of_slice(index, found)
            yield from index.hosts.rivals(f"{made.meta.name}.{made.meta.namespace}.svc.{index.mesh.domain}")
        case EndpointSlice():
            yield from _of_slice(index, made)
        case ServiceEntry():
            yield from _of_hosts(index, made)
        case AuthorizationPolicy():
            is_everywhere = made.meta.namespace in (EVERYWHERE, index.mesh.root_namespace)
            where = None if is_everywhere else made.meta.namespace
            yield from _selected(index, made.selector, where) if made.selector else ()
        case ConnectionLimit():
            is_everywhere = made.meta.namespace in (EVERYWHERE, index.mesh.root_namespace)
            yield from _selected(index, made.selector or {}, None if is_everywhere else made.meta.namespace)
        case PeerAuthentication():
            is_everywhere = not made.selector and made.meta.namespace in (
                EVERYWHERE,
                index.mesh.root_namespace,
            )
            yield from _selected(index, made.selector or {}, None if is_everywhere else made.meta.namespace)
        case Namespace():
            yield from _of_namespace(index, made)
        case Gateway():
            yield from _of_gateway(index, made)
        case GatewayClass():
            for gateway in index.gateways.values():
                if gateway.class_name == made.meta.name:
                    yield from _of_gateway(index, gateway)


def _itself(index: MeshIndex, made: Object) -> Iterator[Owner]:
    tables: tuple[Mapping[tuple[str, str, str], Owner], ...] = (
        index.pods,
        index.services,
        index.slices,
        index.workload_entries,
        index.service_entries,
        index.gateways,
    )
    for table in tables:
        if (found := table.get(made.meta.key)) is not None:
            yield found


def _of_slice(index: MeshIndex, found: EndpointSlice) -> Iterator[Owner]:
    yield from _itself(index, found)
    for endpoint in found.endpoints:
        pod = index.pod(found.meta.namespace, endpoint.pod[0]) if endpoint.pod else None
        if pod is not None:
            yield pod


def _of_hosts(index: MeshIndex, made: ServiceEntry) -> Iterator[Owner]:
    """All that claim a host of it, with whom they select: who wins may be another one now."""
    yield from _selected_workloads(index, made.selector, made.meta.namespace)
    for host in made.hosts:
        if (service := index.hosts.service_of(host)) is not None:
            yield service
        for rival in index.hosts.rivals(host):
            yield rival
            yield from _selected_workloads(index, rival.selector, rival.meta.namespace)


def _of_namespace(index: MeshIndex, made: Namespace) -> Iterator[Owner]:
    """Its annotations are for services; its labels decide for everything in it which waypoint it has."""
    name = made.meta.name
    yield from (s for s in index.services.values() if s.meta.namespace == name)
    yield from (e for e in index.service_entries.values() if e.meta.namespace == name)
    if index.mesh.entry_visibility is not None:
        for entry in index.service_entries.values():
            if entry.meta.namespace == name:
                yield from _of_hosts(index, entry)
    if USE in made.meta.labels or CANARY in made.meta.labels or _has_choosing_gateway(index):
        yield from (w for w in index.workloads() if w.meta.namespace == name)


def _has_choosing_gateway(index: MeshIndex) -> bool:
    """Whether any gateway chooses by the labels of namespaces."""
    return any(each.allows == "Selector" for g in index.gateways.values() for each in g.listeners)


def _of_gateway(index: MeshIndex, made: Gateway) -> Iterator[Owner]:
    yield from _itself(index, made)
    place = made.meta.namespace, made.meta.name
    yield from index.referring(place)
    yield from (w for w in index.labelled((GATEWAY_NAME, made.meta.name)) if w.meta.namespace == place[0])
    inheriting = {n.meta.name for n in index.namespaces.values() if place in _asked(n)}
    if inheriting:
        yield from (s for s in index.services.values() if s.meta.namespace in inheriting)
        yield from (w for w in index.workloads() if w.meta.namespace in inheriting)
    network = made.meta.labels.get(NETWORK_LABEL)
    if network is not None:
        # Another one of the same network may be the first now.
        yield from (g for g in index.gateways.values() if g.meta.labels.get(NETWORK_LABEL) == network)
        yield from (w for w in index.workloads() if _is_on(index, w, network))


def _asked(namespace: Namespace) -> Iterable[tuple[str, str]]:
    """What a namespace asks for on behalf of what is in it."""
    labels = namespace.meta.labels
    for space, name in references(namespace.meta, labels):
        yield space or namespace.meta.name, name


def _is_on(index: MeshIndex, workload: Labelled, network: str) -> bool:
    match workload:
        case Pod():
            return index.mesh.network == network
        case WorkloadEntry():
            return (workload.endpoint.network or index.mesh.network) == network
        case ServiceEntry():
            own = index.mesh.network == network
            return own or any(e.network == network for e in workload.endpoints)


def _selected_workloads(
    index: MeshIndex, selector: Mapping[str, str], namespace: str
) -> Iterator[Pod | WorkloadEntry]:
    if selector:
        found = _selected(index, selector, namespace)
        yield from (w for w in found if not isinstance(w, ServiceEntry))


def _selected(index: MeshIndex, selector: Mapping[str, str], namespace: str | None) -> Iterator[Labelled]:
    label = next(iter(selector.items()), None)
    candidates = index.workloads() if label is None else index.labelled(label)
    for workload in candidates:
        if namespace in (None, workload.meta.namespace) and selects(selector, workload.labels):
            yield workload
