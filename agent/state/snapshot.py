"""Everything the control plane said, at one moment: immutable, with the indexes that lookups need.

Made by `apply` only. Selection rules (docs/WIRE.md#mesh-state) live here: which workload an address means,
which of several services owns a VIP or a hostname, which endpoints count, which policies apply. Endpoints are
derived from the links that workloads carry, never stored with a service, so a service that comes late or
comes back finds all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from agent.model.address import CIDR, IP, NamespacedHostname, NetworkAddress, SocketAddress
from agent.model.identity import Identity
from agent.model.policy import Authorization, RefusedPolicy, Scope
from agent.model.route import Route
from agent.model.service import HealthPolicy, Service, Visibility
from agent.model.workload import Health, TunnelProtocol, Workload
from agent.policy.evaluate import PolicySet
from agent.policy.missing import MissingPolicy

Uids = tuple[str, ...]
Keys = tuple[NamespacedHostname, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A workload serving a service. `ports`: service port -> port of this workload."""

    workload: Workload
    ports: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a service that may be used, with running totals of their capacities."""

    all: tuple[Endpoint, ...] = ()
    totals: tuple[int, ...] = ()

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Endpoints:
        usable = tuple(endpoints)
        return cls(usable, tuple(accumulate(e.workload.capacity for e in usable)))


NO_ENDPOINTS = Endpoints()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The mesh at one moment. `node` is this node's name; empty means every node is local."""

    node: str = ""
    revision: int = field(default=0, compare=False)
    """Grows by one with every change; snapshots that say the same are equal whatever it is."""
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    services: Mapping[NamespacedHostname, Service] = field(default_factory=dict)
    policies: Mapping[str, Authorization] = field(default_factory=dict)
    """xDS resource name -> policy: the names that workloads list."""
    refused_policies: Mapping[str, RefusedPolicy] = field(default_factory=dict)
    """xDS resource name -> what is known of a policy that cannot be used. An earlier version of it is in `policies`."""
    uids_by_address: Mapping[NetworkAddress, Uids] = field(default_factory=dict)
    """In ascending rank: the last is the one the address means."""
    uids_by_name: Mapping[tuple[str, str], Uids] = field(default_factory=dict)
    uids_by_hostname: Mapping[NamespacedHostname, Uids] = field(default_factory=dict)
    local_uids_by_identity: Mapping[Identity, Uids] = field(default_factory=dict)
    links: Mapping[NamespacedHostname, Mapping[str, Mapping[int, int]]] = field(default_factory=dict)
    """Service key -> uid -> ports, as the workloads say, whether or not the service is known."""
    keys_by_vip: Mapping[NetworkAddress, Keys] = field(default_factory=dict)
    keys_by_hostname: Mapping[str, Keys] = field(default_factory=dict)
    cidr_vips: Mapping[str, tuple[tuple[CIDR, NamespacedHostname], ...]] = field(default_factory=dict)
    global_policies: tuple[str, ...] = ()
    namespace_policies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Memos of pure functions of the fields above; `apply` carries over what its batch did not touch.
    endpoints_memo: dict[NamespacedHostname, Endpoints] = field(
        default_factory=dict, compare=False, repr=False
    )
    policies_memo: dict[tuple[str, tuple[str, ...]], PolicySet] = field(
        default_factory=dict, compare=False, repr=False
    )

    routes_memo: dict[tuple[SocketAddress, str], Route] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Destination and uid of its workload -> the route that goes there by nothing else."""

    # --- workloads

    def workload_at(self, network: str, ip: IP) -> Workload | None:
        """The workload an address means; those on the host's network are never found by address."""
        uids = self.uids_by_address.get(NetworkAddress(network, ip))
        return self.workloads[uids[-1]] if uids else None

    def workloads_named(self, namespace: str, name: str) -> tuple[Workload, ...]:
        return tuple(self.workloads[uid] for uid in self.uids_by_name.get((namespace, name), ()))

    def workload_by_hostname(self, namespace: str, hostname: str) -> Workload | None:
        uids = self.uids_by_hostname.get(NamespacedHostname(namespace, hostname))
        return self.workloads[uids[0]] if uids else None

    def local_workload(self, namespace: str, name: str, service_account: str) -> Workload | None:
        """A pod of this node as the control plane knows it; the latest of several."""
        for workload in reversed(self.workloads_named(namespace, name)):
            if workload.service_account == service_account and self.is_local(workload):
                return workload
        return None

    def is_local(self, workload: Workload) -> bool:
        return not self.node or workload.node == self.node

    # --- services

    def service_at(self, network: str, ip: IP, client_namespace: str | None) -> Service | None:
        """The service that owns a virtual IP for this client: an exact VIP, else the best range."""
        exact = self.keys_by_vip.get(NetworkAddress(network, ip))
        if exact and (service := self._best(exact, client_namespace)):
            return service
        ranges = self.cidr_vips.get(network)
        return self._best_range(ranges, ip, client_namespace) if ranges else None

    def service_by_hostname(self, hostname: str, client_namespace: str | None) -> Service | None:
        return self._best(self.keys_by_hostname.get(hostname, ()), client_namespace)

    def _best(self, keys: Keys, client_namespace: str | None) -> Service | None:
        """Client's namespace, then canonical (the last one seen), then the first seen."""
        best: Service | None = None
        canonical: Service | None = None
        own: Service | None = None
        for key in keys:
            service = self.services[key]
            if not visible(service, client_namespace):
                continue
            best = best or service
            canonical = service if service.canonical else canonical
            own = service if service.namespace == client_namespace else own
        return own or canonical or best

    def _best_range(
        self, ranges: tuple[tuple[CIDR, NamespacedHostname], ...], ip: IP, client_namespace: str | None
    ) -> Service | None:
        """Ranked by client's namespace, then prefix length, then canonical; of equals the first seen."""
        best: tuple[tuple[bool, int, bool], Service] | None = None
        for cidr, key in ranges:
            service = self.services[key]
            if ip not in cidr or not visible(service, client_namespace):
                continue
            rank = (service.namespace == client_namespace, cidr.prefixlen, service.canonical)
            if best is None or rank > best[0]:
                best = rank, service
        return best[1] if best else None

    def endpoints(self, key: NamespacedHostname) -> Endpoints:
        """The usable endpoints of a service: healthy ones, or all where its health policy says so."""
        memo = self.endpoints_memo.get(key)
        if memo is None:
            memo = self.endpoints_memo[key] = self._endpoints(key)
        return memo

    def _endpoints(self, key: NamespacedHostname) -> Endpoints:
        service = self.services.get(key)
        links = self.links.get(key)
        if service is None or not links:
            return NO_ENDPOINTS
        everyone = service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
        candidates = ((self.workloads[uid], ports) for uid, ports in links.items())
        return Endpoints.of(
            Endpoint(workload, ports)
            for workload, ports in candidates
            if everyone or workload.status is Health.HEALTHY
        )

    # --- policies

    def policies_for(self, workload: Workload) -> PolicySet:
        """The policies of the mesh, of the workload's namespace, and those it lists (docs/WIRE.md#policies).

        Among the missing are also those refused that are about everybody here: doubt denies.
        """
        key = (workload.namespace, workload.authorization_policies)
        memo = self.policies_memo.get(key)
        if memo is None:
            memo = self.policies_memo[key] = self._policies_for(workload)
        return memo

    def _policies_for(self, workload: Workload) -> PolicySet:
        by_scope = self.global_policies + self.namespace_policies.get(workload.namespace, ())
        refused = tuple(name for name, r in self.refused_policies.items() if is_about(r, workload.namespace))
        names = tuple(dict.fromkeys(by_scope + workload.authorization_policies + refused))
        return PolicySet.of(
            (self.policies[name] for name in names if name in self.policies),
            missing=tuple(self._missing(name) for name in names if self._is_missing(name)),
        )

    def _is_missing(self, name: str) -> bool:
        refused = self.refused_policies.get(name)
        return name not in self.policies and not (refused is not None and refused.dry_run)

    def _missing(self, name: str) -> MissingPolicy:
        refused = self.refused_policies.get(name)
        return MissingPolicy(name, refused.reason if refused is not None else "")


EMPTY = Snapshot()


def visible(service: Service, client_namespace: str | None) -> bool:
    """Whether clients of a namespace may resolve the service; None is a client that sees everything."""
    return (
        service.visibility is Visibility.PUBLIC
        or client_namespace is None
        or service.namespace == client_namespace
    )


def is_about(refused: RefusedPolicy, namespace: str) -> bool:
    """Whether a refused policy is about all workloads of a namespace, as far as can be known."""
    return refused.scope is Scope.GLOBAL or (
        refused.scope is Scope.NAMESPACE and refused.namespace == namespace
    )


def address_rank(workload: Workload) -> int:
    """Of workloads that share an address: pods before others, then HBONE before plain."""
    return 2 * ("//Pod/" in workload.uid) + (workload.protocol is TunnelProtocol.HBONE)
