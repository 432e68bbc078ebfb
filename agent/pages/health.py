"""What the parts of the control process say now, put together for the judgement of health."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from agent import FORM
from agent.admin.readiness import OTHER, CertificateFact, Facts, Health, Reason, judge
from agent.enroll.captures import Captures
from agent.identity.keeper import Keeper
from agent.mesh_state import MeshState
from agent.proof.findings import Finding, Link, Standing, first_broken
from agent.proof.prover import Prover
from agent.rpc.enrolment_client import EnrolmentClient
from agent.rpc.manifests_client import ManifestsClient
from agent.rpc.xds_client import Phase, XdsClient
from agent.supervisor.crew import Crew
from agent.watch.checks import of_pods
from agent.watch.kernel_counters import KernelCounters
from redirect.layout import LAYOUT_HASH


class Source(Protocol):
    """A source of pods, or what brings them here."""

    @property
    def problem(self) -> str:
        """What keeps it from its work, with the remedy; empty while all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """`wall`: seconds since the epoch, as the ends of certificates are. `manifests`: of our own control plane."""

    captures: Captures
    xds: XdsClient
    mesh: MeshState
    reports: EnrolmentClient
    manifests: ManifestsClient
    keeper: Keeper
    crew: Crew
    workers_wanted: int
    counters: KernelCounters
    prover: Prover
    sources: Collection[Source]
    is_serving: Callable[[], bool]
    wall: Callable[[], float] = time.time

    def now(self) -> Health:
        captures = self.captures
        troubled = {trouble.pod for trouble in captures.troubles}
        away = {trouble.pod for trouble in captures.waiting if trouble.is_expected}
        return judge(
            Facts(
                form=FORM.brief,
                generation=LAYOUT_HASH,
                pods_captured=len(captures.pods.keys() - troubled),
                pods_wanted=len(captures.wishes.keys() - away) + len(captures.unrecognised),
                xds=self._xds_word(),
                xds_error=self.xds.status.last_error,
                certificates=tuple(self._certificates()),
                drops_per_s=round(self.counters.drops_per_s, 1),
                workers_alive=len(self.crew.links),
                workers_wanted=self.workers_wanted,
                problems=tuple(self._problems()),
            )
        )

    def standing(self) -> list[Standing]:
        """Everything that is broken: the manifests, what enrolment knows at once, and what the proofs found."""
        return [*self._of_manifests(), *of_pods(self.captures.troubles), *self.prover.standing]

    def _of_manifests(self) -> list[Standing]:
        return [
            Standing(Finding(Link.CONTROL_PLANE, each.pod, each.reason, each.remedy), each.since)
            for each in self.manifests.findings
        ]

    def _problems(self) -> list[Reason]:
        # A policy that does nothing breaks no link: it hides no broken one, and none of them hides another.
        broken = [*of_pods(self.captures.troubles), *self.prover.standing]
        problems = [
            Reason(each.finding.link.word, str(each.finding))
            for each in (*first_broken(broken), *self._of_manifests())
        ]
        opened = self.counters.openings.problems
        others = [
            self.xds.status.defect,
            self.manifests.defect,
            self.mesh.problem,
            self.counters.problem,
            *opened,
            *(source.problem for source in self.sources),
        ]
        if self.reports.error:
            others.append(f"the control plane was not told which pods are captured: {self.reports.error}")
        others.append(self.prover.doubt if self.is_serving() else "not serving yet")
        return problems + [Reason(OTHER, text) for text in others if text]

    def _xds_word(self) -> str:
        status = self.xds.status
        if not status.is_synced:
            return "waiting"
        return "synced" if status.phase is Phase.CONNECTED else "stale"

    def _certificates(self) -> list[CertificateFact]:
        now = self.wall()
        return [
            CertificateFact(
                str(held.identity),
                held.not_after - now if held.not_after else None,
                held.error,
                held.ended_by,
            )
            for held in self.keeper.held()
        ]
