"""Which remarks about the manifests concern a node: for the `ztun status` of its agent.

A policy that was refused, or that does nothing, concerns the nodes of the pods it was meant for. Holds the newest
remarks and tells who waits when they change; how they travel is the service's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.controlplane.read.objects import Pod
from agent.controlplane.read.remarks import EVERYBODY, Remark, Weight
from agent.controlplane.serve.publisher import Bell
from agent.controlplane.translate.selection import selects

PODS_NAMED = 3
FINDINGS_LIMIT = 50
"""A node is told of so many; the control plane's own status has all of them."""
SEE = "see `ztun control-plane status`"


@dataclass(frozen=True, slots=True)
class Concern:
    """One remark as a node hears it. `pod`: `namespace/name` if it concerns one pod there, else empty."""

    pod: str
    reason: str
    remedy: str


class Concerns:
    """The remarks that stand, and the live pods of each node by namespace."""

    def __init__(self) -> None:
        self.bell = Bell()
        self._remarks: tuple[Remark, ...] = ()
        self._places: Mapping[str, Mapping[str, Sequence[Pod]]] = {}

    def replace(self, remarks: Iterable[Remark], pods: Iterable[Pod]) -> None:
        places: defaultdict[str, defaultdict[str, list[Pod]]] = defaultdict(lambda: defaultdict(list))
        for pod in pods:
            if pod.is_live:
                places[pod.node][pod.meta.namespace].append(pod)
        self._places = places
        self._remarks = tuple(r for r in remarks if r.weight is not Weight.NOTE and r.scope is not None)
        self.bell.ring()

    def of_node(self, node: str) -> tuple[Concern, ...]:
        """In the order in which they were found; more than a limit are only said to be there."""
        here = self._places.get(node, {})
        found: list[Concern] = []
        for remark in self._remarks:
            concern = _concern(remark, node, here)
            if concern is not None and len(found) == FINDINGS_LIMIT:
                return *found, Concern("", "there is more to be said about the manifests", SEE)
            if concern is not None:
                found.append(concern)
        return tuple(found)


def _concern(remark: Remark, node: str, here: Mapping[str, Sequence[Pod]]) -> Concern | None:
    """The remark as a node hears it, if it concerns the node. `here`: its pods by namespace."""
    scope = remark.scope
    if scope is None or (scope.node and scope.node != node):
        return None
    reason = f"{remark.word}: {remark.without_remedy}"
    remedy = remark.remedy or f"mend {remark.place.file}:{remark.place.line} of the manifests"
    if scope.node or scope == EVERYBODY:
        return Concern("", reason, remedy)
    namespaces = here if scope.namespace is None else (scope.namespace,)
    pods = [
        f"{pod.meta.namespace}/{pod.meta.name}"
        for namespace in namespaces
        for pod in here.get(namespace, ())
        if selects(scope.selector or {}, pod.meta.labels)
    ]
    if len(pods) <= 1:
        return Concern(pods[0], reason, remedy) if pods else None
    more = f" and {len(pods) - PODS_NAMED} more" if len(pods) > PODS_NAMED else ""
    return Concern("", f"{reason} (pods {', '.join(pods[:PODS_NAMED])}{more})", remedy)
