"""Everything the control plane said, at one moment: immutable, with the indexes that lookups need.

Made by `apply` only. Selection rules (docs/WIRE.md#mesh-state) live here: which workload an address means,
which of several services owns a VIP or a hostname, which endpoints count, which policies apply. Endpoints are
derived from the links that workloads carry, never stored with a service, so a service that comes late or
comes back finds all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.model.address import CIDR, IP, NamespacedHostname, NetworkAddress, SocketAddress
from agent.model.policy import Authorization, RefusedPolicy, Scope
from agent.model.refused_addresses import NONE, RefusedAddresses
from agent.model.route import Route
from agent.model.service import HealthPolicy, Service, Visibility
from agent.model.workload import Workload
from agent.policy.evaluate import PolicySet
from agent.policy.missing import MissingPolicy
from agent.state.directory import Services, Workloads
from agent.state.endpoints import Endpoints, serving

NO_ENDPOINTS = Endpoints()
REMEMBERED = 4096
"""Of how many addresses and names it is remembered what they mean."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The mesh at one moment. `node` is this node's name; empty means every node is local."""

    node: str = ""
    revision: int = field(default=0, compare=False)
    """Grows by one with every change; snapshots that say the same are equal whatever it is."""
    workloads: Workloads = field(default_factory=Workloads)
    services: Services = field(default_factory=Services)
    policies: Mapping[str, Authorization] = field(default_factory=dict)
    """xDS resource name -> policy: the names that workloads list."""
    refused_policies: Mapping[str, RefusedPolicy] = field(default_factory=dict)
    """xDS resource name -> what is known of a policy that cannot be used. An earlier version of it is in `policies`."""
    refused_addresses: RefusedAddresses = NONE
    """Of workloads and services that cannot be used. Of some there may be an earlier version above."""
    links: Mapping[NamespacedHostname, array[int]] = field(default_factory=dict, compare=False)
    """Service key -> rows of the workloads that say they serve it, whether or not the service is known."""
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
    owner_memo: dict[NetworkAddress, tuple[Workload, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """What an address means: one workload, or none."""
    vip_memo: dict[NetworkAddress, tuple[Service, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )
    named_memo: dict[tuple[str, str], tuple[Workload, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    # --- workloads

    def workload_at(self, network: str, ip: IP) -> Workload | None:
        """The workload an address means; those on the host's network are never found by address."""
        address = NetworkAddress(network, ip)
        memo = self.owner_memo
        found = memo.get(address)
        if found is None:
            if len(memo) >= REMEMBERED:
                memo.clear()
            workload = self.workloads.at(address)
            found = memo[address] = () if workload is None else (workload,)
        return found[0] if found else None

    def workloads_named(self, namespace: str, name: str) -> tuple[Workload, ...]:
        memo = self.named_memo
        found = memo.get((namespace, name))
        if found is None:
            if len(memo) >= REMEMBERED:
                memo.clear()
            found = memo[namespace, name] = self.workloads.named(namespace, name)
        return found

    def workload_by_hostname(self, namespace: str, hostname: str) -> Workload | None:
        return self.workloads.with_hostname(NamespacedHostname(namespace, hostname)) if hostname else None

    def local_workload(self, namespace: str, name: str, service_account: str) -> Workload | None:
        """A pod of this node as the control plane knows it; the latest of several."""
        for workload in reversed(self.workloads_named(namespace, name)):
            if workload.service_account == service_account and self.is_local(workload):
                return workload
        return None

    def local_workloads(self) -> Iterator[Workload]:
        """The pods of this node."""
        return self.workloads.on_node(self.node) if self.node else self.workloads.values()

    def is_local(self, workload: Workload) -> bool:
        return not self.node or workload.node == self.node

    # --- services

    def service_at(self, network: str, ip: IP, client_namespace: str | None) -> Service | None:
        """The service that owns a virtual IP for this client: an exact VIP, else the best range."""
        address = NetworkAddress(network, ip)
        memo = self.vip_memo
        exact = memo.get(address)
        if exact is None:
            if len(memo) >= REMEMBERED:
                memo.clear()
            exact = memo[address] = self.services.at(address)
        if exact and (service := best_of(exact, client_namespace)):
            return service
        ranges = self.cidr_vips.get(network)
        return self._best_range(ranges, ip, client_namespace) if ranges else None

    def service_by_hostname(self, hostname: str, client_namespace: str | None) -> Service | None:
        return best_of(self.services.with_hostname(hostname), client_namespace)

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

    def linked(self, key: NamespacedHostname) -> Iterator[Workload]:
        """Every workload that says it serves the service, healthy or not."""
        return map(self.workloads.shelf.made, self.links.get(key, ()))

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
        return serving(self.workloads.shelf, key, links, everyone=everyone)

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


def best_of(
    services: Iterable[Service], client_namespace: str | None, preferred_namespace: str | None = None
) -> Service | None:
    """Of those the client may resolve: its namespace, then canonical (the last one seen), then the preferred namespace,
    then the first seen."""
    first: Service | None = None
    preferred: Service | None = None
    canonical: Service | None = None
    own: Service | None = None
    for service in services:
        if not visible(service, client_namespace):
            continue
        first = first or service
        preferred = service if service.namespace == preferred_namespace else preferred
        canonical = service if service.canonical else canonical
        own = service if service.namespace == client_namespace else own
    return own or canonical or preferred or first


def is_about(refused: RefusedPolicy, namespace: str) -> bool:
    """Whether a refused policy is about all workloads of a namespace, as far as can be known."""
    return refused.scope is Scope.GLOBAL or (
        refused.scope is Scope.NAMESPACE and refused.namespace == namespace
    )
