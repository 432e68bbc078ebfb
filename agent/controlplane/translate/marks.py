"""Labels and annotations of Istio that an object carries and that mean nothing here, or not with this value. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator
from difflib import get_close_matches
from typing import NamedTuple

from agent.controlplane.read.mesh_objects import ServiceEntry, WorkloadEntry
from agent.controlplane.read.objects import Namespace, Pod, Service
from agent.controlplane.translate.mesh import Mesh
from agent.controlplane.translate.pod import CAPTURED, TUNNEL
from agent.controlplane.translate.service import FIELD_VALUES, PREFERENCES, TRAFFIC_DISTRIBUTION
from agent.model.limits import ANNOTATION as LIMITS

Marked = Namespace | Pod | Service | ServiceEntry | WorkloadEntry
UNUSED_LABELS = ("istio.io/global",)
UNUSED_ANNOTATIONS = ("networking.istio.io/exportTo",)
OURS = "ztun.io/"
HONEST_CONNECT = "ztun.io/honest-connect"
OUR_NAMES = (LIMITS, HONEST_CONNECT)
"""Annotations of pods, all of them."""
OF_ENROLMENT = (
    "istio.io/dataplane-mode",
    "istio-injection",
    "sidecar.istio.io/inject",
    "ambient.istio.io/bypass-inbound-capture",
    HONEST_CONNECT,
)
"""Labels and annotations by which pods of a cluster are taken in. Out of files they reach no agent."""


class Misvalued(NamedTuple):
    """A mark with a value that counts as none; `known` are those that count."""

    field: str
    value: str
    known: str


def unused_marks(made: Marked, mesh: Mesh) -> list[str]:
    """Those that ask for what nobody does here."""
    found = [name for name in UNUSED_LABELS if made.meta.labels.get(name, "none") != "none"]
    found += [name for name in UNUSED_ANNOTATIONS if name in made.meta.annotations]
    if isinstance(made, Namespace | Pod) and not mesh.is_of_cluster:
        marks = {*made.meta.labels, *made.meta.annotations}
        found += [
            f"{name} (`ztun enroll` says who is captured, and how)" for name in OF_ENROLMENT if name in marks
        ]
        return [*found, *_of_ours(made, told=(HONEST_CONNECT,))]
    return [*found, *_of_ours(made)]


def _of_ours(made: Marked, told: Container[str] = ()) -> Iterator[str]:
    """Those with our prefix that nobody reads, or not there; `told` are said already."""
    for name in (*made.meta.annotations, *made.meta.labels):
        if name.startswith(OURS) and name not in OUR_NAMES:
            words = [known.removeprefix(OURS) for known in OUR_NAMES]
            close = get_close_matches(name.removeprefix(OURS), words, 1)
            yield f"{name} ({f'did you mean {OURS}{close[0]}?' if close else 'there is none such'})"
    for name in OUR_NAMES:
        if name in made.meta.labels and name not in told:
            yield f"label {name} (it is an annotation)"
    if LIMITS in made.meta.annotations and not isinstance(made, Pod):
        yield f"{LIMITS} (pods have it; for several of them write a ConnectionLimit)"
    if HONEST_CONNECT in made.meta.annotations and not isinstance(made, Pod) and HONEST_CONNECT not in told:
        yield f"{HONEST_CONNECT} (pods have it; for all of a node there is --honest-connect=all)"


def misvalued_marks(made: Marked) -> Iterator[Misvalued]:
    """Those that do nothing for their value, which is like one that does."""
    if isinstance(made, Pod | WorkloadEntry):
        captured = made.meta.annotations.get(CAPTURED, "enabled")
        if captured not in ("enabled", "disabled", "pending"):
            yield Misvalued(f"metadata.annotations.{CAPTURED}", captured, "enabled")
        tunnel = made.meta.labels.get(TUNNEL, "http")
        if "http" not in [word.strip() for word in tunnel.split(",")]:
            yield Misvalued(f"metadata.labels.{TUNNEL}", tunnel, "http")
    else:
        wanted = made.meta.annotations.get(TRAFFIC_DISTRIBUTION, "")
        if wanted and wanted.lower() not in PREFERENCES:
            known = ", ".join(sorted(FIELD_VALUES))
            yield Misvalued(f"metadata.annotations.{TRAFFIC_DISTRIBUTION}", wanted, known)
