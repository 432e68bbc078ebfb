"""A batch of resources on top of a snapshot: the next snapshot, and what changed.

Pure. Equal resources touch nothing: istiod sends a changed Service together with all its Workloads, changed
or not. The cost is that of the batch plus one flat copy of the indexes; a service is copied at most once
per batch however many of its workloads change. Who needs to know about the changes is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agent.model.address import AddressError, NamespacedHostname
from agent.model.policy import Authorization, RefusedPolicy
from agent.model.service import Service
from agent.model.workload import Workload
from agent.state.draft import Draft
from agent.state.snapshot import Snapshot

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Resources accepted together. Removals hold xDS names and are applied after the updates."""

    addresses: tuple[Workload | Service, ...] = ()
    removed_addresses: tuple[str, ...] = ()
    authorizations: tuple[tuple[str, Authorization], ...] = ()
    """Pairs of xDS name and policy."""
    removed_authorizations: tuple[str, ...] = ()
    refused_authorizations: Mapping[str, RefusedPolicy] | None = None
    """Every policy that cannot be used now, by xDS name; None leaves them as they are."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the snapshot before: added, replaced and removed alike."""

    workloads: frozenset[str] = field(default_factory=frozenset)
    services: frozenset[NamespacedHostname] = field(default_factory=frozenset)
    policies: frozenset[str] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.workloads or self.services or self.policies)


NO_CHANGES = Changes()


def apply(snapshot: Snapshot, batch: Batch) -> tuple[Snapshot, Changes]:
    """The next snapshot; the same object when the batch changes nothing.

    Of several updates with one name the last counts. A removed name is a workload's uid, else a service's
    `namespace/hostname`; an unknown one is ignored.
    """
    workloads, services = _changed_addresses(snapshot, batch)
    gone_workloads, gone_services = _removed_addresses(snapshot, batch)
    gone_policies = [n for n in dict.fromkeys(batch.removed_authorizations) if n in snapshot.policies]
    policies = {
        name: policy
        for name, policy in _last(batch.authorizations).items()
        if name not in batch.removed_authorizations and snapshot.policies.get(name) != policy
    }
    refused = batch.refused_authorizations
    changes = Changes(
        frozenset([*workloads, *gone_workloads]),
        frozenset([*services, *gone_services]),
        frozenset([*policies, *gone_policies, *_differing(snapshot.refused_policies, refused)]),
    )
    if not changes:
        return snapshot, NO_CHANGES
    draft = Draft(snapshot)
    for service in services.values():
        draft.put_service(service)
    for workload in workloads.values():
        draft.put_workload(workload)
    for uid in gone_workloads:
        draft.remove_workload(uid)
    for key in gone_services:
        draft.remove_service(key)
    for name, policy in policies.items():
        draft.put_policy(name, policy)
    for name in gone_policies:
        draft.remove_policy(name)
    if refused is not None:
        draft.replace_refused(refused)
    return draft.finish(), changes


def _differing(
    before: Mapping[str, RefusedPolicy], after: Mapping[str, RefusedPolicy] | None
) -> frozenset[str]:
    """Names whose refusal begins, ends or changes."""
    if after is None:
        return frozenset()
    return frozenset(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _last(pairs: Iterable[tuple[K, T]]) -> dict[K, T]:
    """The last value of each key, in the order in which those came."""
    result: dict[K, T] = {}
    for key, value in pairs:
        result.pop(key, None)
        result[key] = value
    return result


def _changed_addresses(
    snapshot: Snapshot, batch: Batch
) -> tuple[dict[str, Workload], dict[NamespacedHostname, Service]]:
    removed = frozenset(batch.removed_addresses)
    updates = [a for a in batch.addresses if address_name(a) not in removed]
    workloads = _last((a.uid, a) for a in updates if isinstance(a, Workload))
    services = _last((a.key, a) for a in updates if isinstance(a, Service))
    return (
        {uid: w for uid, w in workloads.items() if snapshot.workloads.get(uid) != w},
        {key: s for key, s in services.items() if snapshot.services.get(key) != s},
    )


def _removed_addresses(snapshot: Snapshot, batch: Batch) -> tuple[list[str], list[NamespacedHostname]]:
    workloads: list[str] = []
    services: list[NamespacedHostname] = []
    for name in dict.fromkeys(batch.removed_addresses):
        if name in snapshot.workloads:
            workloads.append(name)
        elif (key := _service_key(name)) in snapshot.services and key is not None:
            services.append(key)
    return workloads, services


def _service_key(name: str) -> NamespacedHostname | None:
    try:
        return NamespacedHostname.parse(name)
    except AddressError:
        return None


def address_name(resource: Workload | Service) -> str:
    """The xDS name of a workload or service, by which it is removed."""
    return resource.uid if isinstance(resource, Workload) else str(resource.key)


def full_addresses(snapshot: Snapshot, addresses: Iterable[Workload | Service]) -> Batch:
    """The batch that makes these the only workloads and services."""
    resources = tuple(addresses)
    names = {address_name(r) for r in resources}
    known = [*snapshot.workloads, *map(str, snapshot.services)]
    return Batch(addresses=resources, removed_addresses=tuple(n for n in known if n not in names))


def full_authorizations(snapshot: Snapshot, policies: Iterable[tuple[str, Authorization]]) -> Batch:
    """The batch that makes these the only policies."""
    pairs = tuple(policies)
    names = {name for name, _ in pairs}
    return Batch(
        authorizations=pairs, removed_authorizations=tuple(n for n in snapshot.policies if n not in names)
    )
