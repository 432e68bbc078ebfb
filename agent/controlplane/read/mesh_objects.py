"""Objects that take others into a mesh than pods, or lead elsewhere: slices, entries and gateways, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.controlplane.read.meta import IPRange, Meta
from agent.model.address import IP
from agent.model.label_selector import LabelSelector


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
