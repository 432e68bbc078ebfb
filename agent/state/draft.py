"""The next snapshot while `apply` builds it: mutable copies of the indexes, one resource at a time.

Invariant after every call: the indexes say exactly what the resources say. Resources are never edited in an
index; they are taken out with the value that was put in, then put back. Nobody but `apply` sees a Draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from agent.model.address import NamespacedHostname, NetworkAddress
from agent.model.policy import Authorization, RefusedPolicy, Scope
from agent.model.service import Service
from agent.model.workload import Workload
from agent.state.snapshot import Snapshot, address_rank

K = TypeVar("K")
V = TypeVar("V")


def _add(index: dict[K, tuple[V, ...]], key: K, alone: tuple[V]) -> None:
    """Add the one value of `alone`, which most entries can share between indexes as it is."""
    there = index.get(key)
    index[key] = alone if there is None else there + alone


def _discard(index: dict[K, tuple[V, ...]], key: K, unwanted: Callable[[V], bool]) -> None:
    """Take values out of an entry; an entry without values goes away."""
    left = tuple(value for value in index.get(key, ()) if not unwanted(value))
    if left:
        index[key] = left
    else:
        index.pop(key, None)


class Draft:
    """A snapshot under construction. One flat copy of every index, nested ones copied when first touched."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._workloads = dict(base.workloads)
        self._services = dict(base.services)
        self._policies = dict(base.policies)
        self._uids_by_address = dict(base.uids_by_address)
        self._uids_by_name = dict(base.uids_by_name)
        self._uids_by_hostname = dict(base.uids_by_hostname)
        self._local_uids_by_identity = dict(base.local_uids_by_identity)
        self._links = dict(base.links)
        self._copied_links: dict[NamespacedHostname, dict[str, Mapping[int, int]]] = {}
        self._keys_by_vip = dict(base.keys_by_vip)
        self._keys_by_hostname = dict(base.keys_by_hostname)
        self._cidr_vips = dict(base.cidr_vips)
        self._global_policies = base.global_policies
        self._namespace_policies = dict(base.namespace_policies)
        self._refused_policies = base.refused_policies
        self._stale_endpoints: set[NamespacedHostname] = set()
        self._policies_changed = False

    # --- workloads

    def put_workload(self, workload: Workload) -> None:
        """Add or replace; a replaced workload counts as the latest seen."""
        if workload.uid in self._workloads:
            self.remove_workload(workload.uid)
        uid = workload.uid
        alone = (uid,)
        self._workloads[uid] = workload
        if not workload.host_network:
            for address in self._addresses(workload):
                self._insert_ranked(address, workload, alone)
        _add(self._uids_by_name, (workload.namespace, workload.name), alone)
        if workload.hostname:
            _add(self._uids_by_hostname, NamespacedHostname(workload.namespace, workload.hostname), alone)
        if self._base.is_local(workload):
            _add(self._local_uids_by_identity, workload.identity, alone)
        for key, ports in workload.services.items():
            self._links_of(key)[uid] = ports

    def remove_workload(self, uid: str) -> None:
        workload = self._workloads.pop(uid)

        def is_it(other: str) -> bool:
            return other == uid

        for address in self._addresses(workload):
            _discard(self._uids_by_address, address, is_it)
        _discard(self._uids_by_name, (workload.namespace, workload.name), is_it)
        _discard(self._uids_by_hostname, NamespacedHostname(workload.namespace, workload.hostname), is_it)
        _discard(self._local_uids_by_identity, workload.identity, is_it)
        for key in workload.services:
            links = self._links_of(key)
            del links[uid]
            if not links:
                del self._links[key], self._copied_links[key]

    @staticmethod
    def _addresses(workload: Workload) -> dict[NetworkAddress, None]:
        """Its addresses, each once, in order."""
        return dict.fromkeys(NetworkAddress(workload.network, ip) for ip in workload.addresses)

    def _insert_ranked(self, address: NetworkAddress, workload: Workload, alone: tuple[str]) -> None:
        """Behind all of its rank: of equals the latest seen is the one the address means."""
        uids = self._uids_by_address.get(address)
        if uids is None:
            self._uids_by_address[address] = alone
            return
        rank = address_rank(workload)
        place = sum(address_rank(self._workloads[other]) <= rank for other in uids)
        self._uids_by_address[address] = uids[:place] + alone + uids[place:]

    def _links_of(self, key: NamespacedHostname) -> dict[str, Mapping[int, int]]:
        """The links of a service, writable: copied once per draft however many workloads change."""
        self._stale_endpoints.add(key)
        links = self._copied_links.get(key)
        if links is None:
            links = self._copied_links[key] = dict(self._links.get(key, {}))
            self._links[key] = links
        return links

    # --- services

    def put_service(self, service: Service) -> None:
        """Add or replace; a replaced service counts as the latest seen."""
        key = service.key
        if key in self._services:
            self.remove_service(key)
        self._services[key] = service
        self._stale_endpoints.add(key)
        for vip in dict.fromkeys(service.vips):
            _add(self._keys_by_vip, vip, (key,))
        for block in dict.fromkeys(service.cidr_vips):
            _add(self._cidr_vips, block.network, ((block.cidr, key),))
        _add(self._keys_by_hostname, service.hostname, (key,))

    def remove_service(self, key: NamespacedHostname) -> None:
        """The links of its workloads stay: they are the workloads' own."""
        service = self._services.pop(key)
        self._stale_endpoints.add(key)
        for vip in service.vips:
            _discard(self._keys_by_vip, vip, lambda other: other == key)
        for block in service.cidr_vips:
            _discard(self._cidr_vips, block.network, lambda entry: entry[1] == key)
        _discard(self._keys_by_hostname, service.hostname, lambda other: other == key)

    # --- policies

    def put_policy(self, name: str, policy: Authorization) -> None:
        if name in self._policies:
            self.remove_policy(name)
        self._policies[name] = policy
        self._policies_changed = True
        if policy.scope is Scope.GLOBAL:
            self._global_policies += (name,)
        elif policy.scope is Scope.NAMESPACE:
            _add(self._namespace_policies, policy.namespace, (name,))

    def remove_policy(self, name: str) -> None:
        policy = self._policies.pop(name)
        self._policies_changed = True
        if policy.scope is Scope.GLOBAL:
            self._global_policies = tuple(n for n in self._global_policies if n != name)
        elif policy.scope is Scope.NAMESPACE:
            _discard(self._namespace_policies, policy.namespace, lambda other: other == name)

    def replace_refused(self, refused: Mapping[str, RefusedPolicy]) -> None:
        """These, and no others, are the policies that cannot be used."""
        self._refused_policies = dict(refused)
        self._policies_changed = True

    def finish(self) -> Snapshot:
        """The snapshot, one revision on. The draft must not be used afterwards."""
        base = self._base
        return Snapshot(
            node=base.node,
            revision=base.revision + 1,
            workloads=self._workloads,
            services=self._services,
            policies=self._policies,
            refused_policies=self._refused_policies,
            uids_by_address=self._uids_by_address,
            uids_by_name=self._uids_by_name,
            uids_by_hostname=self._uids_by_hostname,
            local_uids_by_identity=self._local_uids_by_identity,
            links=self._links,
            keys_by_vip=self._keys_by_vip,
            keys_by_hostname=self._keys_by_hostname,
            cidr_vips=self._cidr_vips,
            global_policies=self._global_policies,
            namespace_policies=self._namespace_policies,
            endpoints_memo={
                key: endpoints
                for key, endpoints in base.endpoints_memo.items()
                if key not in self._stale_endpoints
            },
            policies_memo={} if self._policies_changed else dict(base.policies_memo),
        )
