"""Objects that cannot stand side by side: two of one name, or of one address. Pure.

Of two that clash the one that stood before stays, then the first by file and line. Pods are the exception that
Kubernetes makes every day: an address passes from a pod that ends to the next one, so the live pod has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object, Pod, Service
from agent.controlplane.read.remarks import Remark, Scope, Weight
from agent.controlplane.read.yaml_tree import ManifestError
from agent.model.address import IP


@dataclass(frozen=True, slots=True)
class Clash:
    """`refused` shares what is `holder`'s: its name, or an address."""

    shared: str
    holder: Object
    refused: Object

    @property
    def is_of_names(self) -> bool:
        return self.holder.meta.key == self.refused.meta.key

    @property
    def is_copy(self) -> bool:
        return self.holder == self.refused

    @property
    def error(self) -> ManifestError:
        one, other = self.holder.meta, self.refused.meta
        remedy = (
            "rename one of them" if self.is_of_names else "delete the one that is gone, or change its address"
        )
        return other.place.error(f"{self.shared} is already that of {one} at {one.place}; {remedy}")


def clashes(objects: Iterable[Object], dead: Collection[Key]) -> Iterator[Clash]:
    """Each object that clashes with one before it. `objects` in the order in which they have a right to stay."""
    names: dict[Key, Object] = {}
    addresses: dict[IP, Object] = {}
    for made in objects:
        known = names.setdefault(made.meta.key, made)
        if known is not made:
            yield Clash("the name", known, made)
            continue
        for ip in () if made.meta.key in dead else own_addresses(made):
            holder = addresses.setdefault(ip, made)
            if holder is not made:
                yield Clash(f"address {ip}", holder, made)
                break


def own_addresses(made: Object) -> tuple[IP, ...]:
    """The addresses that are this object's alone; pods on the host network share their node's."""
    if isinstance(made, Pod):
        return made.ips if made.is_live and not made.host_network else ()
    return made.cluster_ips or () if isinstance(made, Service) else ()


def outlived(objects: Iterable[Object]) -> dict[Key, Remark]:
    """Pods whose address another one has that is more alive: they are not served."""
    pods = [made for made in objects if isinstance(made, Pod) and own_addresses(made)]
    by_address: dict[IP, list[Pod]] = {}
    for pod in pods:
        for ip in pod.ips:
            by_address.setdefault(ip, []).append(pod)
    contended = {id(pod): pod for sharing in by_address.values() if len(sharing) > 1 for pod in sharing}
    holders: dict[IP, Pod] = {}
    dead: dict[Key, Remark] = {}
    for pod in sorted(contended.values(), key=liveness, reverse=True):
        for ip in pod.ips:
            holder = holders.get(ip, pod)
            if liveness(holder) > liveness(pod):
                dead[pod.meta.key] = _outlived_by(pod, holder, ip)
        if pod.meta.key not in dead:
            for ip in pod.ips:
                holders.setdefault(ip, pod)
    return dead


def liveness(pod: Pod) -> tuple[bool, bool, bool]:
    """How alive a pod with an address is: not being deleted, then running, then ready."""
    return not pod.leaving, pod.phase == "Running", pod.ready


def _outlived_by(pod: Pod, holder: Pod, ip: IP) -> Remark:
    state = "being deleted" if pod.leaving and not holder.leaving else "less alive"
    return Remark(
        place=pod.meta.place,
        about=str(pod.meta),
        problem=f"it is {state}, and {ip} is that of {holder.meta} at {holder.meta.place}; it is not served",
        remedy="delete the one that is gone",
        weight=Weight.INEFFECTIVE,
        scope=Scope(node=pod.node),
    )
