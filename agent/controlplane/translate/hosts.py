"""Who a host name belongs to where several claim it: a Kubernetes Service, else the oldest ServiceEntry. Pure.

As in istiod each namespace has its own winner, and one of all of them is canonical: what clients of other namespaces
get. An entry that only its own namespace sees is never that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.meta import Key, Meta
from agent.controlplane.read.objects import Service
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.relation import Relation

PUBLIC, PRIVATE, HIDDEN = "PUBLIC", "NAMESPACE", "NONE"


def age(meta: Meta) -> tuple[bool, str, str, str]:
    """The order of seniority: the oldest, then those without an age by file and name."""
    return not meta.created, meta.created or meta.place.file, meta.namespace, meta.name


class Hosts:
    """`visibility`: namespace -> PUBLIC, NAMESPACE or NONE of its entries, where it is said."""

    def __init__(
        self,
        services: Mapping[Key, Service],
        entries: Relation[str, ServiceEntry],
        mesh: Mesh,
        namespace_labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._services, self._entries, self._mesh = services, entries, mesh
        self._labels = namespace_labels

    def visibility(self, namespace: str) -> str:
        """Who sees the entries of a namespace."""
        rules = self._mesh.entry_visibility
        if rules is None:
            return PUBLIC
        labels = self._labels.get(namespace, {})
        for word, selectors in rules.rules:
            if all(selector is not None and selector.matches(labels) for selector in selectors):
                return word
        return rules.default

    def is_private(self, entry: ServiceEntry) -> bool:
        return self.visibility(entry.meta.namespace) == PRIVATE

    def of_entry(self, entry: ServiceEntry) -> Iterator[str]:
        """The hosts that are this entry's in its namespace."""
        if self.visibility(entry.meta.namespace) == HIDDEN:
            return
        for host in entry.hosts:
            rivals = [e for e in self._entries.get(host) if e.meta.namespace == entry.meta.namespace]
            service = self.service_of(host)
            is_service = service is not None and service.meta.namespace == entry.meta.namespace
            oldest = min(rivals, key=lambda e: age(e.meta), default=entry)
            if not is_service and oldest.meta.key == entry.meta.key:
                yield host

    def is_canonical(self, entry: ServiceEntry, host: str) -> bool:
        """Whether it is what others get, `host` being one of its own."""
        if self.service_of(host) is not None:
            return False
        public = [e for e in self._entries.get(host) if self.visibility(e.meta.namespace) == PUBLIC]
        return bool(public) and min(public, key=lambda e: age(e.meta)).meta.key == entry.meta.key

    def service_of(self, host: str) -> Service | None:
        """The Kubernetes Service of that name."""
        name, _, rest = host.partition(".")
        namespace, _, domain = rest.partition(".")
        if domain != f"svc.{self._mesh.domain}":
            return None
        return self._services.get(("Service", namespace, name))

    def rivals(self, host: str) -> Collection[ServiceEntry]:
        """Every entry that names it."""
        return self._entries.get(host)
