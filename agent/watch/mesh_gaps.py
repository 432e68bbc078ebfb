"""Watches for what the control plane said about enrolled pods and is not in force here, for proofs, status, metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from agent.enroll.captures import Captures
from agent.mesh_state import MeshState
from agent.proof.findings import Finding, Link
from agent.state.gaps import Gap, GapLog, Kind, gaps
from agent.telemetry import families
from agent.telemetry.metrics import Sample
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION

GRACE_S = 5.0
"""Istiod sends workloads before the policies that they list: what is missing for so long is not on its way."""
REMEDIES = {
    Kind.AWAITED: "see whether the control plane has this policy, and what its log says of it",
    Kind.REFUSED: "mend the policy, or use a version of ztun that knows what it says",
    Kind.UPDATE_REFUSED: "mend the policy, or use a version of ztun that knows what it says",
    Kind.WORKLOAD_REFUSED: "look at the pod's object, and at the log of the control plane",
    Kind.ADDRESS_SHARED: "see in the control plane which of them is gone, and why it lists both",
}


class MeshGaps:
    """One per agent; a check of the prover. `wall` is seconds since the epoch."""

    def __init__(self, captures: Captures, mesh: MeshState, wall: Callable[[], float]) -> None:
        self._captures, self._mesh, self._wall = captures, mesh, wall
        self._log = GapLog()

    def now(self) -> dict[Gap, float]:
        """Every gap with the time since when it is there."""
        snapshot = self._mesh.store.current
        pods = [
            (pod.namespace, pod.name, snapshot.local_workload(pod.namespace, pod.name, pod.service_account))
            for pod in self._captures.pods.values()
        ]
        return self._log.update(gaps(snapshot, pods, self._mesh.refused(ADDRESS)), self._wall())

    async def __call__(self) -> list[Finding]:
        return [
            Finding(Link.CONTROL_PLANE, gap.pod, gap.text, REMEDIES[gap.kind])
            for gap, since in self.now().items()
            if not gap.is_harmless and self._wall() - since >= GRACE_S
        ]

    def samples(self) -> Iterable[Sample]:
        """How many gaps there are of each kind, and how many resources are refused, whomever they concern."""
        count = Counter(gap.kind for gap in self.now())
        yield from ((families.NOT_IN_FORCE, (kind.value,), count[kind]) for kind in Kind)
        for type_url in (ADDRESS, AUTHORIZATION):
            yield families.XDS_REFUSED, (type_url,), len(self._mesh.refused(type_url))
