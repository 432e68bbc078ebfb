"""The objects of the mesh by kind: what `admission` lets stand, as `translate` wants it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.objects import (
    AuthorizationPolicy,
    MeshConfig,
    Namespace,
    Node,
    Object,
    PeerAuthentication,
    Pod,
    Service,
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The objects of the mesh, by kind, each in a stable order."""

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Collection[Pod] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[AuthorizationPolicy, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    mesh_configs: tuple[MeshConfig, ...] = ()


def collect(objects: Iterable[Object]) -> Inventory:
    """The inventory of objects without clashes."""
    made = list(objects)
    return Inventory(
        namespaces={o.meta.name: o for o in made if isinstance(o, Namespace)},
        nodes={o.meta.name: o for o in made if isinstance(o, Node)},
        pods=tuple(o for o in made if isinstance(o, Pod)),
        services=tuple(o for o in made if isinstance(o, Service)),
        policies=tuple(o for o in made if isinstance(o, AuthorizationPolicy)),
        peer_authentications=tuple(o for o in made if isinstance(o, PeerAuthentication)),
        mesh_configs=tuple(o for o in made if isinstance(o, MeshConfig)),
    )
