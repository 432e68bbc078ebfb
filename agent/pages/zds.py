"""How it stands with istio-cni, where pods are taken from it: a row of the status, and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.pages.times import utc
from agent.telemetry import families
from agent.telemetry.metrics import Sample

if TYPE_CHECKING:
    from agent.zds.source import ZdsSource

KINDS = ("add", "keep", "del", "snapshotsent", "unknown")
RESULTS = ("done", "refused")


def zds_row(source: ZdsSource | None) -> dict[str, object] | None:
    """None where nobody is asked. `since`: of `is_connected`; `pods`: how many are named."""
    if source is None:
        return None
    return {
        "socket": source.path,
        "is_connected": source.is_connected,
        "since": utc(source.since_s),
        "has_snapshot": source.has_snapshot,
        "pods": source.pods,
        "error": source.error,
    }


@dataclass(frozen=True, slots=True)
class ZdsFigures:
    """A source of `Figures`. Every kind and result is always there."""

    source: ZdsSource

    def __call__(self) -> Iterable[Sample]:
        yield families.ZDS_CONNECTED, (), self.source.is_connected
        yield families.ZDS_SNAPSHOT, (), self.source.has_snapshot
        yield families.ZDS_PODS, (), self.source.pods
        for kind in KINDS:
            for result in RESULTS:
                yield families.ZDS_REQUESTS, (kind, result), self.source.requests[kind, result]
