"""Proves that every worker judges by the state that control had a round ago, or by a newer one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.proof.findings import Finding, Link


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker as its channel shows it. `applied`: the revision it said it judges by."""

    slot: int
    pid: int
    applied: int


class WorkerWatch:
    """A revision that is younger than a round may still be on its way."""

    def __init__(self) -> None:
        self._due = 0

    def update(self, revision: int, workers: Iterable[WorkerSeen]) -> list[Finding]:
        """A round: control's revision now, and the workers."""
        due, self._due = self._due, revision
        return [
            Finding(
                Link.STATE,
                "",
                f"worker {worker.slot} (pid {worker.pid}) judges by revision {worker.applied} of the mesh state, "
                f"control has {revision}",
                "a worker that does not follow is replaced within seconds; if this stays, restart the agent",
            )
            for worker in workers
            if worker.applied < due
        ]
