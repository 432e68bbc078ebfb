"""Which remarks about the manifests concern a node: for the `ztun status` of its agent.

A policy that was refused, or that does nothing, concerns the nodes of the pods it was meant for. Holds the newest
remarks and tells who waits when they change; how they travel is the service's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.controlplane.read.objects import Pod
from agent.controlplane.read.remarks import EVERYBODY, Remark, Scope, Weight
from agent.controlplane.serve.publisher import Bell
from agent.controlplane.translate.selection import selects

PODS_NAMED = 3
FINDINGS_LIMIT = 50
"""A node is told of so many; the control plane's own status has all of them."""


@dataclass(frozen=True, slots=True)
class Concern:
    """One remark as a node hears it. `pod`: `namespace/name` if it concerns one pod there, else empty."""

    pod: str
    reason: str
    remedy: str


class Concerns:
    """The remarks that stand, and the live pods of each node."""

    def __init__(self) -> None:
        self.bell = Bell()
        self._remarks: tuple[Remark, ...] = ()
        self._pods: Mapping[str, Sequence[Pod]] = {}

    def replace(self, remarks: Iterable[Remark], pods: Iterable[Pod]) -> None:
        of_node: defaultdict[str, list[Pod]] = defaultdict(list)
        for pod in pods:
            if pod.is_live:
                of_node[pod.node].append(pod)
        self._pods = of_node
        self._remarks = tuple(r for r in remarks if r.weight is not Weight.NOTE and r.scope is not None)
        self.bell.ring()

    def of_node(self, node: str) -> tuple[Concern, ...]:
        """In the order in which they were found; the last one says how many were left out."""
        found = [c for remark in self._remarks if (c := self._concern(remark, node)) is not None]
        if len(found) <= FINDINGS_LIMIT:
            return tuple(found)
        more = f"{len(found) - FINDINGS_LIMIT} more findings about the manifests"
        return *found[:FINDINGS_LIMIT], Concern("", more, "see `ztun control-plane status`")

    def _concern(self, remark: Remark, node: str) -> Concern | None:
        scope = remark.scope
        if scope is None or (scope.node and scope.node != node):
            return None
        pods = [f"{p.meta.namespace}/{p.meta.name}" for p in self._pods.get(node, ()) if _takes(scope, p)]
        if not pods and scope != EVERYBODY and not scope.node:
            return None
        reason = f"{remark.weight.value}: {remark.without_remedy}"
        is_one = len(pods) == 1 and scope != EVERYBODY and not scope.node
        if len(pods) > 1 and not scope.node and scope != EVERYBODY:
            more = f" and {len(pods) - PODS_NAMED} more" if len(pods) > PODS_NAMED else ""
            reason += f" (pods {', '.join(pods[:PODS_NAMED])}{more})"
        place = remark.place
        return Concern(
            pods[0] if is_one else "",
            reason,
            remark.remedy or f"mend {place.file}:{place.line} of the manifests",
        )


def _takes(scope: Scope, pod: Pod) -> bool:
    return scope.namespace in (None, pod.meta.namespace) and selects(scope.selector or {}, pod.meta.labels)
