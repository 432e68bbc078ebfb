"""All files side by side: which of them are served, and the objects that come of it. Pure.

One broken file must not block the others: each file has a last good version that stays served while its newest one
cannot be. Files contradict each other by defining one object, or one address, twice; then the changed file is to
blame (the last of them by name), and the error names both places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.controlplane.read.manifests import Manifest
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
from agent.controlplane.read.yaml_tree import ManifestError
from agent.model.address import IP

NOTHING: Mapping[str, Manifest] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Inventory:
    """The objects of the mesh, by kind, each in a stable order."""

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[AuthorizationPolicy, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    mesh_configs: tuple[MeshConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """What is served after a change: file -> Manifest, and per refused file its error."""

    served: Mapping[str, Manifest]
    errors: Mapping[str, ManifestError]


def admit(
    good: Mapping[str, Manifest], candidates: Mapping[str, Manifest | ManifestError | None]
) -> Admission:
    """The new set of served files. A candidate is a file's new content, its error, or None: the file is gone."""
    errors = {f: c for f, c in candidates.items() if isinstance(c, ManifestError)}
    fresh = {f: c for f, c in candidates.items() if not isinstance(c, ManifestError)}
    while True:
        served = {f: m for f, m in {**good, **fresh}.items() if m is not None}
        conflict = first_conflict(served)
        if conflict is None:
            return Admission(MappingProxyType(dict(sorted(served.items()))), errors)
        # Each turn sets one file back to its last good version; all of those together had no conflict.
        blamed = max((f for f in conflict.files if f in fresh), default=max(conflict.files))
        errors[blamed] = conflict.error(blamed)
        if fresh.pop(blamed, None) is None:
            return Admission(good, errors)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two objects that cannot both be: what they share and where they stand."""

    shared: str
    first: Object
    second: Object

    @property
    def files(self) -> set[str]:
        return {self.first.meta.place.file, self.second.meta.place.file}

    def error(self, blamed: str) -> ManifestError:
        one, other = self.first, self.second
        if one.meta.place.file == blamed and other.meta.place.file != blamed:
            one, other = other, one
        problem = f"{other.meta}: {self.shared} is already that of {one.meta} at {one.meta.place}"
        return other.meta.place.error(problem)


def first_conflict(files: Mapping[str, Manifest]) -> Conflict | None:
    """The first two objects with one name or one address, in the order of files and places."""
    names: dict[tuple[str, str, str], Object] = {}
    addresses: dict[IP, Object] = {}
    for made in _objects(files):
        known = names.setdefault(made.meta.key, made)
        if known is not made:
            return Conflict("the name", known, made)
        for ip in _addresses(made):
            holder = addresses.setdefault(ip, made)
            if holder is not made:
                return Conflict(f"address {ip}", holder, made)
    return None


def _addresses(made: Object) -> tuple[IP, ...]:
    """The addresses that are this object's alone; pods on the host network share their node's."""
    if isinstance(made, Pod):
        return made.ips if made.is_live and not made.host_network else ()
    return made.cluster_ips or () if isinstance(made, Service) else ()


def _objects(files: Mapping[str, Manifest]) -> Iterator[Object]:
    for name in sorted(files):
        yield from files[name].objects


def collect(files: Mapping[str, Manifest]) -> Inventory:
    """The inventory of a set of files without conflicts."""
    made = list(_objects(files))
    return Inventory(
        namespaces={o.meta.name: o for o in made if isinstance(o, Namespace)},
        nodes={o.meta.name: o for o in made if isinstance(o, Node)},
        pods=tuple(o for o in made if isinstance(o, Pod)),
        services=tuple(o for o in made if isinstance(o, Service)),
        policies=tuple(o for o in made if isinstance(o, AuthorizationPolicy)),
        peer_authentications=tuple(o for o in made if isinstance(o, PeerAuthentication)),
        mesh_configs=tuple(o for o in made if isinstance(o, MeshConfig)),
    )
