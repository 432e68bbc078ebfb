"""The Kubernetes objects that make a mesh, as frozen values: what the readers of manifests produce.

Only what `translate` needs is kept, with defaults filled in and everything checked; each object knows the place
it was read from, because two objects can contradict each other long after they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.mesh_objects import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    ServiceEntry,
    WorkloadEntry,
)
from agent.controlplane.read.meta import IPRange, Meta
from agent.model.address import IP
from agent.model.label_selector import LabelSelector
from agent.model.limits import Limits

SYSTEM_NAMESPACE = "istio-system"
"""Where the mesh config stands, and policies of the whole mesh unless it says otherwise."""
EVERYWHERE = ""
"""The namespace of what stands in for a policy that does not say for certain which one it guards."""


@dataclass(frozen=True, slots=True)
class Namespace:
    meta: Meta


@dataclass(frozen=True, slots=True)
class Node:
    meta: Meta


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    meta: Meta


@dataclass(frozen=True, slots=True)
class EntryVisibility:
    """Who may use ServiceEntries: the word of the first rule whose selectors all choose their namespace, or `default`.

    PUBLIC, NAMESPACE or NONE. A selector that is None chooses nobody.
    """

    default: str
    rules: tuple[tuple[str, tuple[LabelSelector | None, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """ConfigMap `istio` of the root namespace; empty means: not said there.

    `unused` are its other fields, `misspelt` those of them that are like one of these, with what was meant.
    """

    meta: Meta
    trust_domain: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = ""
    discovery_selectors: tuple[LabelSelector, ...] = ()
    entry_visibility: EntryVisibility | None = None
    unused: tuple[str, ...] = ()
    misspelt: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerPort:
    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller that made a pod."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """`ready`: condition Ready is true. `ports` are those of containers, then of restartable init containers."""

    meta: Meta
    service_account: str
    node: str
    ips: tuple[IP, ...]
    phase: str = "Running"
    ready: bool = True
    leaving: bool = False
    host_network: bool = False
    generated: bool = False
    owner: Owner | None = None
    ports: tuple[ContainerPort, ...] = ()
    uid: str = ""
    limits: Limits | None = None
    limits_refused: str = ""
    """Why its annotation of limits means nothing: nobody is let in then. Only an API server can have let it pass."""

    @property
    def labels(self) -> Mapping[str, str]:
        return self.meta.labels

    @property
    def is_live(self) -> bool:
        return self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class ServicePort:
    """`target` is a number, the name of a container port, or 0 where a stored object says nothing."""

    name: str
    port: int
    target: int | str
    protocol: str
    app_protocol: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`cluster_ips` None: none given and one is wanted, for `translate.vips` to allocate; empty: headless.

    `unused`: what it asks for that has no effect here. `is_stand_in`: without ports, for one refused.
    """

    meta: Meta
    kind: str = "ClusterIP"
    selector: Mapping[str, str] = field(default_factory=dict)
    cluster_ips: tuple[IP, ...] | None = None
    families: tuple[str, ...] = ()
    family_policy: str = ""
    ports: tuple[ServicePort, ...] = ()
    traffic_distribution: str = ""
    is_node_local: bool = False
    publishes_not_ready: bool = False
    unused: tuple[str, ...] = ()
    is_stand_in: bool = False

    @property
    def is_for_others(self) -> bool:
        """Whether nobody of the mesh is to be behind it."""
        return self.kind == "ExternalName" or self.is_stand_in


@dataclass(frozen=True, slots=True)
class Terms:
    """One source, operation or condition: field of `istio.security.Match` -> its values, AND between fields.

    `beyond` names the fields that need HTTP and that a node proxy cannot judge.
    """

    strings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[IPRange, ...]] = field(default_factory=dict)
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    accounts: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """`to` and `sources` are OR inside; `when` is AND; the three are AND."""

    to: tuple[Terms, ...] = ()
    sources: tuple[Terms, ...] = ()
    when: tuple[Terms, ...] = ()

    @property
    def beyond(self) -> tuple[str, ...]:
        return tuple(name for terms in (*self.to, *self.sources, *self.when) for name in terms.beyond)


@dataclass(frozen=True, slots=True)
class Target:
    """What a policy for waypoints is attached to, in its own namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """`selector` None or empty: all workloads of the namespace. `targets`: it is for waypoints, not for node proxies.

    `doubts`: what of it does not do what it seems to say; only an API server can have let it pass.
    """

    meta: Meta
    action: str = "ALLOW"
    selector: Mapping[str, str] | None = None
    rules: tuple[Rule, ...] = ()
    targets: tuple[Target, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def is_targeted(self) -> bool:
        return bool(self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication:
    """`ports`: modes of single ports of the workload. `is_stand_in`: STRICT above every other, for one refused."""

    meta: Meta
    mode: str = "UNSET"
    selector: Mapping[str, str] | None = None
    ports: Mapping[int, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    is_stand_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimit:
    """What each client of the workloads may have; `sources` (OR) choose the clients, none: all. Selectors as policies'.

    `is_stand_in`: for one refused.
    """

    meta: Meta
    limits: Limits
    selector: Mapping[str, str] | None = None
    sources: tuple[Terms, ...] = ()
    doubts: tuple[str, ...] = ()
    is_stand_in: bool = False


Guard = AuthorizationPolicy | PeerAuthentication | ConnectionLimit
Labelled = Pod | WorkloadEntry | ServiceEntry
"""What policies find by `labels`."""
Object = (
    Namespace
    | Node
    | ServiceAccount
    | MeshConfig
    | Pod
    | Service
    | EndpointSlice
    | WorkloadEntry
    | ServiceEntry
    | Gateway
    | GatewayClass
    | AuthorizationPolicy
    | PeerAuthentication
    | ConnectionLimit
)
