"""What is true of the whole mesh: the settings of the command line, and what the mesh config says above them. Pure.

As istiod: the mesh config is ConfigMap `istio` of the system namespace; `rootNamespace` is where policies of the whole
mesh stand; `discoverySelectors` choose the namespaces whose objects count, the root namespace not excepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import (
    SYSTEM_NAMESPACE,
    EntryVisibility,
    Guard,
    MeshConfig,
    Namespace,
    Object,
)
from agent.model.identity import DEFAULT_TRUST_DOMAIN
from agent.model.label_selector import LabelSelector

NETWORK_LABEL = "topology.istio.io/network"
NAME_LABEL = "kubernetes.io/metadata.name"
"""Every API server puts it on every namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What holds where the mesh config says nothing. `root_namespace` is where the mesh config stands, too.

    `is_of_cluster`: its objects are those of a Kubernetes API, which agents read, too.
    """

    cluster_id: str = "Kubernetes"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    domain: str = "cluster.local"
    root_namespace: str = SYSTEM_NAMESPACE
    is_of_cluster: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """What holds. `aliases` are further trust domains that policies may name; `network` is the mesh's own."""

    cluster_id: str
    domain: str
    trust_domain: str
    aliases: tuple[str, ...] = ()
    system_namespace: str
    root_namespace: str
    network: str = ""
    is_of_cluster: bool = False
    discovery: tuple[LabelSelector, ...] = ()
    entry_visibility: EntryVisibility | None = None
    config: MeshConfig | None = field(default=None, compare=False)

    @property
    def trust_domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.trust_domain, *self.aliases)))


def mesh_of(inventory: Inventory, settings: MeshSettings) -> Mesh:
    config = next((c for c in inventory.mesh_configs if c.meta.namespace == settings.root_namespace), None)
    system = inventory.namespaces.get(settings.root_namespace)
    return Mesh(
        network=system.meta.labels.get(NETWORK_LABEL, "") if system else "",
        is_of_cluster=settings.is_of_cluster,
        entry_visibility=config.entry_visibility if config else None,
        cluster_id=settings.cluster_id,
        domain=settings.domain,
        trust_domain=(config and config.trust_domain) or settings.trust_domain,
        aliases=config.trust_domain_aliases if config else (),
        system_namespace=settings.root_namespace,
        root_namespace=(config and config.root_namespace) or settings.root_namespace,
        discovery=config.discovery_selectors if config else (),
        config=config,
    )


def discovered(inventory: Inventory, mesh: Mesh) -> Inventory:
    """The part of the inventory that counts in this mesh."""
    if not mesh.discovery:
        return inventory
    chosen: dict[str, bool] = {}

    def counts(made: Object) -> bool:
        namespace = made.meta.namespace
        if not namespace and isinstance(made, Guard):
            # Security: what stands in for a policy of nobody knows where is of no namespace, and always counts.
            return True
        if namespace not in chosen:
            labels = namespace_labels(inventory.namespaces, namespace)
            chosen[namespace] = any(selector.matches(labels) for selector in mesh.discovery)
        return chosen[namespace]

    return inventory.where(counts)


def namespace_labels(namespaces: Mapping[str, Namespace], name: str) -> Mapping[str, str]:
    """The labels of a namespace, with the one that no manifest has to write."""
    found = namespaces.get(name)
    return {NAME_LABEL: name, **(found.meta.labels if found else {})}
