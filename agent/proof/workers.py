"""Proves that every worker lives, and judges by the state that control had a round ago or by a newer one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.proof.findings import Finding, Link

QUIET_S = 3.0
"""A worker speaks every second. Listeners do not show that one stands still: others accept on them."""


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker as its channel shows it. `applied`: the revision that it judges by; `silent_s`: since its last word."""

    slot: int
    pid: int
    applied: int
    silent_s: float = 0.0


class WorkerWatch:
    """A revision that is younger than a round may still be on its way."""

    def __init__(self) -> None:
        self._due = 0

    def update(self, revision: int, workers: Iterable[WorkerSeen]) -> list[Finding]:
        """A round: control's revision now, and the workers."""
        due, self._due = self._due, revision
        seen = tuple(workers)
        return [
            Finding(
                Link.WORKER,
                "",
                f"worker {worker.slot} (pid {worker.pid}) says nothing: what it carries stands still",
                "it is replaced if it goes on; is it stopped, or the node overloaded?",
            )
            for worker in seen
            if worker.silent_s >= QUIET_S
        ] + [
            Finding(
                Link.STATE,
                "",
                f"worker {worker.slot} (pid {worker.pid}) judges by revision {worker.applied} of the mesh state, "
                f"control has {revision}",
                "a worker that does not follow is replaced within seconds; if this stays, restart the agent",
            )
            for worker in seen
            if worker.applied < due
        ]
