"""A captured pod, and whether a pod may become one: pure checks against the mesh state.

A pod is enrolled by namespace and name; its interface must have every address that the control plane lists for it
on this node. An address alone never says who a pod is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey
from agent.model.address import IP
from agent.model.identity import Identity
from agent.model.workload import Workload
from agent.state.snapshot import Snapshot
from redirect.place import Place


class EnrolmentRefused(Exception):
    """The pod cannot be enrolled as asked; the text says why and what to check, `missing` what it lacks."""

    def __init__(self, text: str, missing: Missing = Missing.WORKLOAD) -> None:
        super().__init__(text)
        self.missing = missing


class NotAnnounced(EnrolmentRefused):
    """The control plane does not know the pod, or its addresses, yet: waiting may help."""


@dataclass(frozen=True, slots=True)
class EnrolledPod:
    """A pod that is captured: who it is, and where. The addresses of its place are those that are served.

    `closed` are addresses of its interface that the control plane does not list: their packets are dropped.
    """

    key: PodKey
    service_account: str
    trust_domain: str
    place: Place
    closed: tuple[IP, ...] = ()

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
    def notes(self) -> tuple[str, ...]:
        """What people should know about it."""
        if not self.closed:
            return ()
        listed = ", ".join(map(str, self.closed))
        return (
            f"{listed} of its interface is not listed by the control plane: closed, packets from it are dropped",
        )

    @property
    def identity(self) -> Identity:
        return Identity(self.trust_domain, self.namespace, self.service_account)


def check(
    snapshot: Snapshot,
    node: str,
    network: str,
    pod: PodKey,
    addresses: Iterable[IP],
    owners: Mapping[IP, PodKey],
) -> Workload:
    """The workload that a pod with these addresses is; `owners`: the pods that are served with an address.

    Raises EnrolmentRefused, or NotAnnounced.
    """
    found = tuple(addresses)
    workload = only_pod(snapshot, network, pod, found)
    if node and workload.node != node:
        raise EnrolmentRefused(f"pod {pod} is on node {workload.node!r}, this agent is of node {node!r}")
    if workload.host_network:
        raise EnrolmentRefused(
            f"pod {pod} uses the host's network: it has no interface of its own to capture", Missing.INTERFACE
        )
    if not workload.addresses:
        raise NotAnnounced(f"the control plane lists pod {pod} without an address", Missing.ADDRESS)
    if not set(workload.addresses) <= set(found):
        raise EnrolmentRefused(
            f"the interface of pod {pod} has {_join(found)}, but the control plane lists "
            f"{_join(sorted(workload.addresses, key=str))}; is it the right namespace, and the pod's newest status?",
            Missing.ADDRESS,
        )
    families = [ip.version for ip in workload.addresses]
    if len(set(families)) != len(families):
        raise EnrolmentRefused(
            f"the control plane lists more than one address of a family for pod {pod}: "
            f"{_join(sorted(workload.addresses, key=str))}",
            Missing.ADDRESS,
        )
    for address in found:
        owner = owners.get(address, pod)
        if owner != pod:
            raise EnrolmentRefused(
                f"pod {owner} is enrolled with an address of {pod}: un-enrol it first", Missing.ADDRESS
            )
    return workload


def only_pod(snapshot: Snapshot, network: str, pod: PodKey, addresses: Iterable[IP]) -> Workload:
    """The one workload of that name. Raises EnrolmentRefused for more, or for addresses that are another pod's."""
    workloads = snapshot.workloads_named(pod.namespace, pod.name)
    if not workloads:
        text = f"the control plane lists no pod {pod}"
        owners = {w for ip in addresses if (w := snapshot.workload_at(network, ip)) is not None}
        if owners:
            names = ", ".join(sorted(f"{w.namespace}/{w.name}" for w in owners))
            raise EnrolmentRefused(f"{text}, and the addresses there are those of {names}: check the name")
        raise NotAnnounced(f"{text}: check the name and its manifest")
    if len(workloads) > 1:
        uids = ", ".join(sorted(w.uid for w in workloads))
        raise EnrolmentRefused(f"{pod} is more than one workload: {uids}")
    return workloads[0]


def enrolled_pod(workload: Workload, place: Place) -> EnrolledPod:
    """The pod of a workload at a place, with those addresses of it that the control plane lists."""
    served = tuple(ip for ip in place.addresses if ip in workload.addresses)
    return EnrolledPod(
        PodKey(workload.namespace, workload.name),
        workload.service_account,
        workload.trust_domain,
        replace(place, addresses=served),
        tuple(ip for ip in place.addresses if ip not in workload.addresses),
    )


def _join(addresses: Iterable[IP]) -> str:
    return ", ".join(map(str, addresses)) or "no address"
