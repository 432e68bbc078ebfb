"""A document that cannot be used: why, who it is as far as that can be told, and what stands in for it. Pure.

Security: where what is refused has no earlier form that could stay in force, its targets are closed: an
AuthorizationPolicy becomes a DENY of everybody, a PeerAuthentication STRICT above every other one, a ConnectionLimit
one of no connection for anybody, a Service or ServiceEntry one without ports, so that its addresses do not lead past
the mesh. What a policy does not say for certain counts as everything: no readable selector is the namespace, no
namespace is the mesh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from agent.controlplane.read.core_kinds import read_cluster_ips
from agent.controlplane.read.fields import Field, Place, is_label, is_name
from agent.controlplane.read.mesh_objects import ServiceEntry
from agent.controlplane.read.meta import Key, Meta
from agent.controlplane.read.objects import (
    SYSTEM_NAMESPACE,
    AuthorizationPolicy,
    ConnectionLimit,
    Guard,
    Object,
    PeerAuthentication,
    Rule,
    Service,
)
from agent.controlplane.read.security_kinds import DRY_RUN, read_selector
from agent.controlplane.read.service_entry import read_addresses, read_hosts
from agent.controlplane.read.yaml_tree import ManifestError
from agent.controlplane.read.yaml_tree import Mapping as MappingNode
from agent.model.address import IP
from agent.model.limits import Limits

GUARDS = ("AuthorizationPolicy", "PeerAuthentication", "ConnectionLimit")
OF_THE_CLUSTER = ("Namespace", "Node", "GatewayClass")
NOT_NODE_PROXIES = ("AUDIT", "CUSTOM")
StandIn = AuthorizationPolicy | PeerAuthentication | ConnectionLimit | Service | ServiceEntry
CLOSING = {
    "AuthorizationPolicy": "its targets are denied to everybody until it is mended",
    "PeerAuthentication": "its targets take mutual TLS only until it is mended",
    "ConnectionLimit": "its targets let in no new connection until it is mended",
    "Service": "its addresses are closed until it is mended",
    "ServiceEntry": "its addresses are closed until it is mended",
}

SERVED = frozenset(
    (
        "EndpointSlice",
        "Gateway",
        "GatewayClass",
        "Namespace",
        "Node",
        "Pod",
        "Service",
        "ServiceEntry",
        "WorkloadEntry",
    )
)
"""Kinds that rule nothing. Of any other, misspelt ones too, it is said that it is not in force."""


class Outcome(Enum):
    """What came of a refused document: an older form is served, what stands in for it, or nothing."""

    KEPT = "kept"
    CLOSED = "closed"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`kind` is empty where the document does not tell, `key` is None where its name is not its own.

    `stand_in`: what closes its targets; None for kinds that guard nothing. `node`: of a Pod, as far as it is known.
    """

    place: Place
    errors: tuple[ManifestError, ...]
    kind: str = ""
    key: Key | None = None
    stand_in: StandIn | None = None
    node: str = ""
    outcome: Outcome = Outcome.LEFT_OUT
    title: str = ""
    """What it calls itself, where that is not told by its key."""

    @property
    def is_missing(self) -> bool:
        """Whether nothing can be served without it: it may be anything, or all else depends on it."""
        is_mesh_config = self.kind == "ConfigMap" and (self.key is None or self.key[1] == SYSTEM_NAMESPACE)
        return self.outcome is Outcome.CLOSED and (not self.kind or is_mesh_config)

    @property
    def identity(self) -> tuple[str, ...]:
        """What it is known by from one reading to the next: its key, else its kind in its file."""
        return self.key or (self.place.file, self.kind)

    @property
    def about(self) -> str:
        if self.key is None:
            return self.title or self.kind
        kind, namespace, name = self.key
        return f"{kind} {namespace + '/' if namespace else ''}{name}"

    @property
    def effect(self) -> str:
        """What holds instead, for people."""
        if self.outcome is Outcome.KEPT:
            return "its last good form stays in force"
        if self.outcome is Outcome.CLOSED and self.stand_in is not None:
            return CLOSING[self.kind]
        return "it is not served" if self.kind in SERVED else "it is not in force"


def refuse(
    root: Field, kind: str, errors: tuple[ManifestError, ...], unsure: Collection[str] = ()
) -> Refused:
    """The refusal of a document of a known kind. `unsure`: fields whose value cannot be relied on."""
    namespace = _namespace(root, kind, unsure)
    name = "" if {"metadata", "name"} & set(unsure) else _name(root, "name")
    is_named = bool(name and (namespace or kind in OF_THE_CLUSTER))
    key = (kind, namespace, name) if is_named else None
    return Refused(
        place=root.place,
        errors=errors,
        kind=kind,
        key=key,
        stand_in=_stand_in(root, kind, namespace, name, unsure),
        node=_text(root, "spec", "nodeName") if kind == "Pod" else "",
        title=f"{kind} {name}" if name and key is None else "",
    )


def refuse_nameless(place: Place, errors: tuple[ManifestError, ...], root: Field | None = None) -> Refused:
    """The refusal of a document that does not say for certain what it is, by what it calls itself."""
    if root is None or not isinstance(root.node, MappingNode):
        return Refused(place=place, errors=errors)
    kind, name = _scalar(root, "kind"), _name(root, "name")
    return Refused(
        place=place, errors=errors, title=f"{kind if kind.isalnum() else 'object'} {name}" if name else ""
    )


def standing_in_for(made: Object) -> StandIn | None:
    """What closes the targets of a policy whose name another object has."""
    if not isinstance(made, Guard):
        return None
    return renamed(_closing(made.meta.kind, made.meta, made.selector))


def renamed(stand_in: StandIn) -> StandIn:
    """Under a name that no object can have."""
    meta = dataclasses.replace(stand_in.meta, name=_name_of_place(stand_in.meta.place))
    return dataclasses.replace(stand_in, meta=meta)


def _stand_in(root: Field, kind: str, namespace: str, name: str, unsure: Collection[str]) -> StandIn | None:
    if kind == "Service" and name and namespace:
        ips = _cluster_ips(root)
        meta = Meta(place=root.place, kind=kind, namespace=namespace, name=name)
        return Service(meta=meta, cluster_ips=ips, is_stand_in=True) if ips else None
    if kind == "ServiceEntry" and name and namespace:
        return _closed_entry(root, Meta(place=root.place, kind=kind, namespace=namespace, name=name))
    if kind not in GUARDS or (kind != "ConnectionLimit" and not unsure and _is_for_others(root)):
        return None
    if not name or not namespace:
        name = _name_of_place(root.place)
    meta = Meta(place=root.place, kind=kind, namespace=namespace, name=name)
    return _closing(kind, meta, _selector(root, unsure) if namespace else None)


def _closing(kind: str, meta: Meta, selector: Mapping[str, str] | None) -> StandIn:
    if kind == "AuthorizationPolicy":
        return AuthorizationPolicy(meta=meta, action="DENY", selector=selector, rules=(Rule(),))
    if kind == "ConnectionLimit":
        return ConnectionLimit(meta=meta, limits=Limits(connections=0), selector=selector, is_stand_in=True)
    return PeerAuthentication(meta=meta, mode="STRICT", selector=selector, is_stand_in=True)


def _is_for_others(root: Field) -> bool:
    """Whether it would not have concerned node proxies in any reading."""
    annotations = _mapping(_mapping(root, "metadata"), "annotations")
    spec = _mapping(root, "spec")
    return (
        _text(root, "spec", "action") in NOT_NODE_PROXIES
        or bool(_mapping(spec, "targetRef").names() or _is_filled(spec, "targetRefs"))
        or _scalar(annotations, DRY_RUN) == "true"
    )


def _is_filled(field: Field, name: str) -> bool:
    try:
        return any(True for _ in field.get(name).each())
    except ManifestError:
        return False


def _namespace(root: Field, kind: str, unsure: Collection[str]) -> str:
    """The namespace, empty where the document does not say for certain."""
    metadata = _mapping(root, "metadata")
    if {"metadata", "namespace"} & set(unsure) or kind in OF_THE_CLUSTER:
        return ""
    said = _text(root, "metadata", "namespace")
    if is_label(said):
        return said
    return "" if kind in GUARDS or "namespace" in metadata.names() else "default"


def _name(root: Field, field: str) -> str:
    text = _text(root, "metadata", field)
    return text if is_name(text) else ""


def _selector(root: Field, unsure: Collection[str]) -> Mapping[str, str] | None:
    if unsure:
        return None
    try:
        return read_selector(_mapping(root, "spec").get("selector"))
    except ManifestError:
        return None


def _closed_entry(root: Field, meta: Meta) -> ServiceEntry | None:
    """One without ports; None where it is not known for which addresses."""
    spec = _mapping(root, "spec")
    try:
        addresses, hosts = read_addresses(spec.get("addresses")), read_hosts(spec.get("hosts"))
    except ManifestError:
        return None
    return (
        ServiceEntry(meta=meta, hosts=hosts, addresses=addresses, resolution="STATIC") if addresses else None
    )


def _cluster_ips(root: Field) -> tuple[IP, ...]:
    try:
        return read_cluster_ips(_mapping(root, "spec")) or ()
    except ManifestError:
        return ()


def _mapping(field: Field, name: str) -> Field:
    """The mapping of that name, or an absent one."""
    try:
        child = field.get(name)
        child.names()
    except ManifestError:
        return Field(None, field.document, field.line)
    return child


def _text(root: Field, parent: str, name: str) -> str:
    return _scalar(_mapping(root, parent), name)


def _scalar(mapping: Field, name: str) -> str:
    """The text, or the empty one where it is none."""
    try:
        return mapping.get(name).text("")
    except ManifestError:
        return ""


def _name_of_place(place: Place) -> str:
    """A name that no object can have, for what has none."""
    return f"refused_{place.file.replace('/', '_')}_{place.line}"
