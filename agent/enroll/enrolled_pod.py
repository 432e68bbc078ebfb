"""A captured pod, and whether a pod may become one: pure checks against the mesh state.

A pod is enrolled by namespace and name; its interface's addresses must be exactly those that the control
plane lists for it on this node. An address alone never says who a pod is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.enroll.trouble import Missing, Trouble
from agent.enroll.wish import PodKey
from agent.model.address import IP
from agent.model.identity import Identity
from agent.model.workload import Workload
from agent.state.snapshot import Snapshot
from redirect.locate import Place


class EnrolmentRefused(Exception):
    """The pod cannot be enrolled as asked; the text says why and what to check."""


@dataclass(frozen=True, slots=True)
class EnrolledPod:
    """A pod that is captured: who it is, and where."""

    key: PodKey
    service_account: str
    trust_domain: str
    place: Place

    @property
    def namespace(self) -> str:
        return self.key.namespace

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def addresses(self) -> tuple[IP, ...]:
        return self.place.addresses

    @property
    def ifname(self) -> str:
        return self.place.ifname

    @property
    def identity(self) -> Identity:
        return Identity(self.trust_domain, self.namespace, self.service_account)


def check(
    snapshot: Snapshot,
    node: str,
    pod: PodKey,
    addresses: Iterable[IP],
    enrolled: Iterable[EnrolledPod],
) -> Workload:
    """The workload this pod is. Raises EnrolmentRefused."""
    workload = only_pod(snapshot, pod)
    if node and workload.node != node:
        raise EnrolmentRefused(f"pod {pod} is on node {workload.node!r}, this agent is of node {node!r}")
    if workload.host_network:
        raise EnrolmentRefused(
            f"pod {pod} uses the host's network: it has no interface of its own to capture"
        )
    found, listed = sorted(addresses, key=str), sorted(workload.addresses, key=str)
    if found != listed:
        raise EnrolmentRefused(
            f"the interface of pod {pod} has {_join(found)}, but the control plane lists {_join(listed)}; "
            "is it the right namespace, and the pod's newest status?"
        )
    for other in enrolled:
        if other.key != pod and set(other.addresses) & set(found):
            raise EnrolmentRefused(f"pod {other.key} is enrolled with an address of {pod}: un-enrol it first")
    return workload


def only_pod(snapshot: Snapshot, pod: PodKey) -> Workload:
    """The one workload of that name. Raises EnrolmentRefused when there is none, or more."""
    workloads = snapshot.workloads_named(pod.namespace, pod.name)
    if not workloads:
        raise EnrolmentRefused(f"the control plane lists no pod {pod}: check the name and its manifest")
    if len(workloads) > 1:
        uids = ", ".join(sorted(w.uid for w in workloads))
        raise EnrolmentRefused(f"{pod} is more than one workload: {uids}")
    return workloads[0]


def recognise(snapshot: Snapshot, node: str, network: str, addresses: Iterable[IP]) -> Workload | None:
    """The pod of this node that has all these addresses, for enrolments found in the pins after a restart."""
    found = {snapshot.workload_at(network, address) for address in addresses}
    if len(found) != 1:
        return None
    workload = found.pop()
    return workload if workload is not None and (not node or workload.node == node) else None


def enrolled_pod(workload: Workload, place: Place) -> EnrolledPod:
    key = PodKey(workload.namespace, workload.name)
    return EnrolledPod(key, workload.service_account, workload.trust_domain, place)


def trouble(snapshot: Snapshot, pod: EnrolledPod) -> Trouble | None:
    """Why the pod's connections are refused although it is captured; None when they are not."""
    workload = snapshot.local_workload(pod.namespace, pod.name, pod.service_account)
    if workload is None:
        return Trouble(
            Missing.WORKLOAD,
            f"pod {pod.key} is enrolled, but the control plane no longer lists it here",
            pod.key,
            pod.ifname,
        )
    moved = [ip for ip in pod.addresses if ip not in workload.addresses]
    if moved:
        text = f"pod {pod.key} is enrolled with {_join(moved)}, which is no longer its address"
        return Trouble(Missing.ADDRESS, text, pod.key, pod.ifname)
    return None


def _join(addresses: Iterable[IP]) -> str:
    return ", ".join(map(str, addresses)) or "no address"
