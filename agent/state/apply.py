"""A batch of resources on top of a snapshot: the next snapshot, and what changed.

Pure. Equal resources touch nothing: istiod sends a changed Service together with all its Workloads, changed
or not. The cost is that of the batch plus one flat copy of the indexes; a service is copied at most once
per batch however many of its workloads change. A large batch goes in steps, and shows when it is whole. Who needs to
know about the changes is not decided here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from agent.model.address import AddressError, NamespacedHostname
from agent.model.policy import Authorization, RefusedPolicy
from agent.model.refused_addresses import RefusedAddresses
from agent.model.service import Service
from agent.model.steps import PACE, Steps, each, to_the_end
from agent.model.workload import Workload
from agent.state.draft import Draft
from agent.state.snapshot import Snapshot

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Resources accepted together. Removals hold xDS names and are applied after the updates."""

    addresses: Iterable[Workload | Service] = ()
    """Gone through once."""
    removed_addresses: tuple[str, ...] = ()
    authorizations: tuple[tuple[str, Authorization], ...] = ()
    """Pairs of xDS name and policy."""
    removed_authorizations: tuple[str, ...] = ()
    refused_authorizations: Mapping[str, RefusedPolicy] | None = None
    """Every policy that cannot be used now, by xDS name; None leaves them as they are."""
    refused_addresses: RefusedAddresses | None = None
    """Of every workload and service that cannot be used now; None leaves them as they are."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the snapshot before: added, replaced and removed alike."""

    workloads: Set[str] = field(default_factory=frozenset)
    services: Set[NamespacedHostname] = field(default_factory=frozenset)
    policies: Set[str] = field(default_factory=frozenset)
    are_others_refused: bool = False
    """Other addresses are those of what cannot be used."""

    def __bool__(self) -> bool:
        return bool(self.workloads or self.services or self.policies or self.are_others_refused)


NO_CHANGES = Changes()


def apply(snapshot: Snapshot, batch: Batch) -> tuple[Snapshot, Changes]:
    """The next snapshot; the same object when the batch changes nothing.

    Of several updates with one name the last counts. A removed name is a workload's uid, else a service's
    `namespace/hostname`; an unknown one is ignored.
    """
    return to_the_end(applying(snapshot, batch))


def applying(snapshot: Snapshot, batch: Batch) -> Steps[tuple[Snapshot, Changes]]:
    """The same in steps."""
    workloads, services = yield from _changed_addresses(snapshot, batch)
    gone_workloads, gone_services = yield from _removed_addresses(snapshot, batch)
    removed_policies = frozenset(batch.removed_authorizations)
    gone_policies = [n for n in dict.fromkeys(batch.removed_authorizations) if n in snapshot.policies]
    policies: dict[str, Authorization] = {}

    def take_policy(pair: tuple[str, Authorization]) -> None:
        name, policy = pair
        if name not in removed_policies and snapshot.policies.get(name) != policy:
            policies[name] = policy

    yield from each(_last(batch.authorizations).items(), take_policy)
    refused = batch.refused_authorizations
    changes = Changes(
        (yield from _names(workloads, gone_workloads)),
        (yield from _names(services, gone_services)),
        frozenset([*policies, *gone_policies, *_differing(snapshot.refused_policies, refused)]),
        batch.refused_addresses not in (None, snapshot.refused_addresses),
    )
    if not changes:
        return snapshot, NO_CHANGES
    draft = Draft(snapshot)
    # Each is let go of as soon as it is a row: all at once would take as long as a slice.
    for key in list(services):
        yield from draft.put_service(services.pop(key))
        yield
    for count, uid in enumerate(list(workloads), 1):
        yield from draft.put_workload(workloads.pop(uid))
        if not count % PACE:
            yield
    for count, uid in enumerate(gone_workloads, 1):
        yield from draft.remove_workload(uid)
        if not count % PACE:
            yield
    for key in gone_services:
        yield from draft.remove_service(key)
    yield from each(policies.items(), lambda pair: draft.put_policy(*pair))
    yield from each(gone_policies, draft.remove_policy)
    if refused is not None:
        draft.replace_refused(refused)
    if batch.refused_addresses is not None:
        draft.refused_addresses = batch.refused_addresses
    return (yield from draft.finish()), changes


def _names(changed: Iterable[K], gone: Iterable[K]) -> Steps[Set[K]]:
    found: set[K] = set()
    yield from each(chain(changed, gone), found.add)
    return found


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
) -> Steps[tuple[dict[str, Workload], dict[NamespacedHostname, Service]]]:
    removed = frozenset(batch.removed_addresses)
    workloads: dict[str, Workload] = {}
    services: dict[NamespacedHostname, Service] = {}

    def take(resource: Workload | Service) -> None:
        """The last of a name counts, and in its place."""
        if address_name(resource) in removed:
            return
        if isinstance(resource, Workload):
            workloads.pop(resource.uid, None)
            held = snapshot.workloads.held(resource.uid)
            if held is None or held[1] != resource:
                workloads[resource.uid] = resource
        else:
            services.pop(resource.key, None)
            known = snapshot.services.held(resource.key)
            if known is None or known[1] != resource:
                services[resource.key] = resource

    yield from each(batch.addresses, take)
    return workloads, services


def _removed_addresses(snapshot: Snapshot, batch: Batch) -> Steps[tuple[list[str], list[NamespacedHostname]]]:
    workloads: list[str] = []
    services: list[NamespacedHostname] = []

    def take(name: str) -> None:
        if name in snapshot.workloads:
            workloads.append(name)
        elif (key := service_key(name)) in snapshot.services and key is not None:
            services.append(key)

    yield from each(dict.fromkeys(batch.removed_addresses), take)
    return workloads, services


def service_key(name: str) -> NamespacedHostname | None:
    """The key of a service by its xDS name; None: it is none's."""
    try:
        return NamespacedHostname.parse(name)
    except AddressError:
        return None


def address_name(resource: Workload | Service) -> str:
    """The xDS name of a workload or service, by which it is removed."""
    return resource.uid if isinstance(resource, Workload) else str(resource.key)


def full_addresses(
    snapshot: Snapshot, addresses: Iterable[Workload | Service], names: Container[str]
) -> Steps[Batch]:
    """The batch that makes these, which have these names, the only workloads and services."""
    missing: list[str] = []

    def take(there: str | NamespacedHostname) -> None:
        name = str(there)
        if name not in names:
            missing.append(name)

    yield from each(snapshot.workloads, take)
    yield from each(snapshot.services, take)
    return Batch(addresses=addresses, removed_addresses=tuple(missing))


def full_authorizations(snapshot: Snapshot, policies: Iterable[tuple[str, Authorization]]) -> Batch:
    """The batch that makes these the only policies."""
    pairs = tuple(policies)
    names = {name for name, _ in pairs}
    return Batch(
        authorizations=pairs, removed_authorizations=tuple(n for n in snapshot.policies if n not in names)
    )
