"""The Kubernetes objects that make a mesh, as frozen values: what the readers of manifests produce.

Only what `translate` needs is kept, with defaults filled in and everything checked; each object knows the place
it was read from, because two objects can contradict each other long after they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.controlplane.read.fields import Place
from agent.model.address import IP
from agent.model.label_selector import LabelSelector

Key = tuple[str, str, str]
"""Kind, namespace (empty for objects of the cluster) and name."""
IPRange = tuple[IPv4Address | IPv6Address, int]
"""An address and a prefix length; host bits stay, as istiod sends them (docs/WIRE.md#translation)."""
SYSTEM_NAMESPACE = "istio-system"
"""Where the mesh config stands, and policies of the whole mesh unless it says otherwise."""
EVERYWHERE = ""
"""The namespace of what stands in for a policy that does not say for certain which one it guards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Name and labels of an object. `namespace` is empty for objects of the cluster, `created` if nobody says when."""

    place: Place = field(compare=False)
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def key(self) -> Key:
        return (self.kind, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


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


@dataclass(frozen=True, slots=True)
class SlicePort:
    name: str
    number: int


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """`pod`: name and uid of the pod that it is, the uid empty where it is not said; None: it is none."""

    ips: tuple[IP, ...]
    ready: bool = True
    pod: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    """`service`: the name of the Service it is of, empty for none. `ports`: those of TCP, with their numbers."""

    meta: Meta
    service: str
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Somebody outside of Kubernetes. `ip` None: `address` is a host name. `ports`: name of a port -> its number.

    `locality` is `region/zone/subzone`, `weight` 0 where nothing is said.
    """

    address: str
    ip: IP | None
    ports: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry:
    """`labels`: those of its spec, under those of the object."""

    meta: Meta
    endpoint: Endpoint
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntryPort:
    """`target` 0: the same as the number. `protocol` in capitals, empty where nothing is said."""

    number: int
    name: str
    protocol: str = ""
    target: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry:
    """`addresses` as they are written, host bits masked; `allocated`: host -> those that were given to it.

    `is_automatic`: hosts without an address want one. `unused`: what it asks for that has no effect here.
    """

    meta: Meta
    hosts: tuple[str, ...]
    addresses: tuple[IPRange, ...] = ()
    allocated: Mapping[str, tuple[IP, ...]] = field(default_factory=dict)
    is_automatic: bool = True
    ports: tuple[EntryPort, ...] = ()
    resolution: str = "NONE"
    selector: Mapping[str, str] = field(default_factory=dict)
    endpoints: tuple[Endpoint, ...] = ()
    alt_names: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def labels(self) -> Mapping[str, str]:
        return self.meta.labels

    @property
    def unaddressed_hosts(self) -> tuple[str, ...]:
        """Those that can have an address of their own and have none."""
        if self.addresses or not self.is_automatic or self.resolution == "NONE":
            return ()
        is_any = self.resolution == "DYNAMIC_DNS"
        return tuple(h for h in self.hosts if h not in self.allocated and (is_any or not h.startswith("*")))


@dataclass(frozen=True, slots=True)
class Listener:
    """`allows`: Same, All or Selector; then `selector` chooses the namespaces."""

    port: int
    protocol: str
    allows: str = "Same"
    selector: LabelSelector = LabelSelector()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """`addresses`: type and value of each that it was given."""

    meta: Meta
    class_name: str
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayClass:
    meta: Meta


Guard = AuthorizationPolicy | PeerAuthentication
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
)
