"""What is said back to the Kubernetes API about each pod: pure, from what the API tells and what is captured.

The annotation `ambient.istio.io/redirection` is `enabled` for a pod that is captured and served, `pending` for one that
is captured and closed and was never served, and absent for every other: istiod derives from it which pods its peers
reach by HBONE. It is this agent's on every pod of its node; whatever else is found there is put right, and named when
it is not ours.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from agent.enroll.progress import Progress
from agent.enroll.wish import PodKey
from agent.kubernetes.objects import REDIRECTION, Pod

ENABLED, PENDING = "enabled", "pending"
OURS = (ENABLED, PENDING)
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
JSON = "application/json"
REASON = "NotInMesh"
_NOTE_LIMIT = 1024
"""Of an event's message, by the API."""


@dataclass(frozen=True, slots=True)
class Annotate:
    """Give a pod the annotation, or take it away (None)."""

    pod: Pod
    value: str | None

    @property
    def path(self) -> str:
        # The status may be written with less of a right than the pod itself.
        return f"/api/v1/namespaces/{self.pod.namespace}/pods/{self.pod.name}/status"

    @property
    def body(self) -> bytes:
        """The uid makes it fail for another pod of that name."""
        return json.dumps(
            {"metadata": {"uid": self.pod.uid, "annotations": {REDIRECTION: self.value}}}
        ).encode()

    @property
    def overwritten(self) -> str:
        """What somebody else wrote there; empty when it is ours."""
        found = self.pod.redirection
        return found if found is not None and found not in OURS else ""


@dataclass(frozen=True, slots=True)
class Tell:
    """An Event on a pod that is to be in the mesh, and is not."""

    pod: Pod
    text: str

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.pod.namespace}/events"

    def body(self, node: str, name: str, now: str) -> bytes:
        """`now`: RFC 3339, in UTC. `name`: of the event, not used before."""
        involved = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": self.pod.namespace,
            "name": self.pod.name,
            "uid": self.pod.uid,
        }
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": self.pod.namespace, "name": name},
            "involvedObject": involved,
            "reason": REASON,
            "message": self.text[:_NOTE_LIMIT],
            "type": "Warning",
            "source": {"component": "ztun", "host": node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        return json.dumps(event).encode()


def to_annotate(
    pods: Mapping[PodKey, Pod], found: Mapping[PodKey, Progress], wanted: Collection[str] | None
) -> Iterator[Annotate]:
    """Which pods have another annotation than they should. `wanted`: uids of those to be in the mesh; None: not known.

    One that is in the mesh stays `enabled` for as long as it is to be there, also while it is not served: after a
    reboot, or while its certificate is away. Peers would send to it in clear from then on, where now they wait or fail.
    """
    if wanted is None:
        return
    for pod in pods.values():
        value = _annotation(of(pod, found))
        is_awaited = pod.redirection == ENABLED and pod.uid in wanted
        if pod.redirection != value and not is_awaited:
            yield Annotate(pod, value)


def to_tell(
    pods: Mapping[PodKey, Pod], found: Mapping[PodKey, Progress], told: Mapping[str, str]
) -> Iterator[Tell]:
    """Troubles that are another than the last one told of that pod; `told`: by uid."""
    for pod in pods.values():
        trouble = of(pod, found).trouble
        if trouble and told.get(pod.uid) != trouble:
            yield Tell(pod, trouble)


def of(pod: Pod, found: Mapping[PodKey, Progress]) -> Progress:
    """How far that pod is, and no other of its name; one that has ended is not captured any more."""
    progress = found.get(pod.key)
    if progress is None or pod.is_terminal or not progress.is_of(pod.uid):
        return Progress()
    return progress


def _annotation(progress: Progress) -> str | None:
    if progress.is_served:
        return ENABLED
    return PENDING if progress.is_captured else None
