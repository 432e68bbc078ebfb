"""The next snapshot while `apply` builds it: copies of what changes, one resource at a time.

Invariant after every call: the indexes say exactly what the resources say. Resources are never edited in an
index; they are taken out with the value that was put in, then put back. Nobody but `apply` sees a Draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from agent.model.address import NamespacedHostname
from agent.model.policy import Authorization, RefusedPolicy, Scope
from agent.model.service import Service
from agent.model.steps import Steps
from agent.model.workload import Workload
from agent.state.draft_addresses import ServicesDraft, WorkloadsDraft
from agent.state.snapshot import Snapshot

K = TypeVar("K")
V = TypeVar("V")


def _add(index: dict[K, tuple[V, ...]], key: K, alone: tuple[V]) -> None:
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
    """A snapshot under construction. What the batch does not touch is that of the base."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._workloads = WorkloadsDraft(base.workloads, base.links)
        self._services = ServicesDraft(base.services)
        self._policies = dict(base.policies)
        self._cidr_vips = dict(base.cidr_vips)
        self._global_policies = base.global_policies
        self._namespace_policies = dict(base.namespace_policies)
        self._refused_policies = base.refused_policies
        self.refused_addresses = base.refused_addresses
        self._stale_endpoints: set[NamespacedHostname] = set()
        self._policies_changed = False

    def put_workload(self, workload: Workload) -> Steps[None]:
        """Add or replace; a replaced workload counts as the latest seen."""
        return self._workloads.put(workload)

    def remove_workload(self, uid: str) -> Steps[None]:
        return self._workloads.remove(uid)

    # --- services

    def put_service(self, service: Service) -> Steps[None]:
        """Add or replace; a replaced service counts as the latest seen."""
        yield from self.remove_service(service.key)
        yield from self._services.put(service)
        for block in dict.fromkeys(service.cidr_vips):
            _add(self._cidr_vips, block.network, ((block.cidr, service.key),))

    def remove_service(self, key: NamespacedHostname) -> Steps[None]:
        """The links of its workloads stay: they are the workloads' own."""
        self._stale_endpoints.add(key)
        service = yield from self._services.remove(key)
        for block in service.cidr_vips if service is not None else ():
            _discard(self._cidr_vips, block.network, lambda entry: entry[1] == key)

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

    def finish(self) -> Steps[Snapshot]:
        """The snapshot, one revision on. The draft must not be used afterwards."""
        base = self._base
        workloads, links, stale = yield from self._workloads.finish()
        services = yield from self._services.finish()
        stale |= self._stale_endpoints
        # Those of another shelf would keep it, with all that is gone.
        kept = base.endpoints_memo if workloads.shelf is base.workloads.shelf else {}
        return Snapshot(
            node=base.node,
            revision=base.revision + 1,
            workloads=workloads,
            services=services,
            policies=self._policies,
            refused_policies=self._refused_policies,
            refused_addresses=self.refused_addresses,
            links=links,
            cidr_vips=self._cidr_vips,
            global_policies=self._global_policies,
            namespace_policies=self._namespace_policies,
            endpoints_memo={key: endpoints for key, endpoints in kept.items() if key not in stale},
            policies_memo={} if self._policies_changed else dict(base.policies_memo),
        )
