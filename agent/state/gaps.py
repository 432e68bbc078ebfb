"""What the control plane said about a local pod and is not in force here: listed, pod by pod. Pure.

Policies that a pod lists and nobody has sent, policies and descriptions of the pod that this agent refused, and other
pods that are listed with an address of it. What missing policies do to the pod's connections is decided in
`policy.missing`; since when is kept by `GapLog`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from agent.model.address import NetworkAddress
from agent.model.workload import Workload
from agent.policy.missing import MissingPolicy
from agent.state.snapshot import Snapshot, is_about


class Kind(Enum):
    """Why it is not in force; the value is the metric label."""

    AWAITED = "awaited"
    """The pod lists a policy that has not been received."""
    REFUSED = "refused"
    """A policy was refused, and there is no earlier version of it."""
    UPDATE_REFUSED = "update_refused"
    """A policy was refused; the version before stays in force."""
    WORKLOAD_REFUSED = "workload_refused"
    """The description of the pod itself was refused."""
    ADDRESS_SHARED = "address_shared"
    """Another pod is listed with an address of this one: it means one of them, and nobody can tell them apart."""


class Gap(NamedTuple):
    """One resource that is not in force for one pod. `pod` is `namespace/name`, `resource` its xDS name."""

    pod: str
    resource: str
    kind: Kind
    refusal: str = ""
    demands_identity_only: bool = False
    shared: str = ""
    """The address, and to whom connections to it go."""

    @property
    def is_harmless(self) -> bool:
        """Whether the pod's mutual TLS goes on as if nothing were missing, which is usual with istiod."""
        return self.kind is Kind.AWAITED and self.demands_identity_only

    @property
    def effect(self) -> str:
        """What it does to the pod, for people."""
        if self.kind is Kind.UPDATE_REFUSED:
            return "the version before it stays in force"
        if self.kind is Kind.WORKLOAD_REFUSED:
            return "of the pod is known what was said before, or nothing"
        if self.kind is Kind.ADDRESS_SHARED:
            return self.shared
        if self.demands_identity_only:
            return "plaintext to the pod is denied"
        return "everything to the pod is denied"

    @property
    def text(self) -> str:
        """What is missing and what that does, one line."""
        if self.kind is Kind.AWAITED:
            return f"{MissingPolicy(self.resource).state}: {self.effect}"
        if self.kind is Kind.ADDRESS_SHARED:
            return f"the control plane lists {self.resource} with an address of this pod too: {self.effect}"
        what = "its description" if self.kind is Kind.WORKLOAD_REFUSED else f"policy {self.resource}"
        return f"{what} was refused by this agent ({self.refusal}): {self.effect}"


def gaps(
    snapshot: Snapshot, pods: Iterable[tuple[str, str, Workload | None]], refused_addresses: Mapping[str, str]
) -> list[Gap]:
    """Every gap of these pods: (namespace, name, the workload that the pod is, if the mesh knows it).

    `refused_addresses`: xDS name -> why this agent refused that workload or service.
    """
    found = []
    for namespace, name, workload in pods:
        pod, uid_end = f"{namespace}/{name}", f"//Pod/{namespace}/{name}"
        found += [
            Gap(pod, uid, Kind.WORKLOAD_REFUSED, why)
            for uid, why in refused_addresses.items()
            if uid.endswith(uid_end)
        ]
        if workload is not None:
            found += _of_policies(snapshot, pod, workload)
            found += _of_addresses(snapshot, pod, workload)
    return found


def _of_addresses(snapshot: Snapshot, pod: str, workload: Workload) -> list[Gap]:
    """One for each of the others, however many addresses it shares."""
    found: dict[str, Gap] = {}
    for ip in workload.addresses:
        address = NetworkAddress(workload.network, ip)
        for other in snapshot.workloads.pods_at(address):
            meant = snapshot.workload_at(workload.network, ip)
            if other.uid != workload.uid and other.uid not in found and meant is not None:
                shared = f"{ip} means {meant.namespace}/{meant.name} here"
                found[other.uid] = Gap(pod, other.uid, Kind.ADDRESS_SHARED, shared=shared)
    return list(found.values())


def _of_policies(snapshot: Snapshot, pod: str, workload: Workload) -> list[Gap]:
    found = [
        Gap(
            pod,
            missing.name,
            Kind.REFUSED if missing.refusal else Kind.AWAITED,
            missing.refusal,
            missing.demands_identity_only,
        )
        for missing in snapshot.policies_for(workload).missing
    ]
    listed = workload.authorization_policies
    return found + [
        Gap(pod, name, Kind.UPDATE_REFUSED, refused.reason)
        for name, refused in snapshot.refused_policies.items()
        if name in snapshot.policies and (name in listed or is_about(refused, workload.namespace))
    ]


class GapLog:
    """Since when each gap is there, in seconds since the epoch."""

    def __init__(self) -> None:
        self._since: dict[Gap, float] = {}

    def update(self, found: Iterable[Gap], now: float) -> dict[Gap, float]:
        """Those that are there now, each with its beginning. One that went and came back begins anew."""
        self._since = {gap: self._since.get(gap, now) for gap in found}
        return self._since
