"""What operators watch: the state of the agent and of its parts as figures, read when somebody asks for the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from agent.admin.readiness import CERTIFICATES, OTHER, PODS, WORKERS, XDS
from agent.identity.keeper import State
from agent.pages.health import AgentHealth
from agent.proof.findings import Link, first_broken
from agent.rpc.xds_client import Phase
from agent.telemetry import families
from agent.telemetry.metrics import Sample

TOPICS = (*(link.word for link in Link), XDS, WORKERS, PODS, CERTIFICATES, OTHER)


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """A source of `Figures`. Every topic and state is always there, so that nothing appears only with the trouble."""

    health: AgentHealth

    def __call__(self) -> Iterable[Sample]:
        yield from self._state()
        yield from self._certificates()
        yield from self._control_plane()
        crew = self.health.crew
        yield families.WORKERS, ("alive",), len(crew.links)
        yield families.WORKERS, ("retiring",), len(crew.retiring)
        yield families.WORKERS, ("wanted",), self.health.workers_wanted
        yield families.WORKER_RESTARTS, (), crew.restarts

    def _state(self) -> Iterable[Sample]:
        health = self.health.now()
        yield families.AGENT_READY, (), health.state == "READY"
        count = Counter(cause.topic for cause in health.causes)
        yield from ((families.DEGRADED_REASONS, (topic,), count[topic]) for topic in TOPICS)
        for each in first_broken(self.health.standing()):
            if each.finding.pod:
                namespace, _, name = each.finding.pod.partition("/")
                yield families.POD_BROKEN, (namespace, name, each.finding.link.word), 1
        age_s = self.health.prover.age_s
        if age_s is not None:
            yield families.PROOF_AGE, (), age_s

    def _certificates(self) -> Iterable[Sample]:
        held = self.health.keeper.held()
        count = Counter(each.state for each in held)
        yield from ((families.CERTIFICATES, (state.value.lower(),), count[state]) for state in State)
        for each in held:
            if each.not_after is not None:
                yield families.CERTIFICATE_EXPIRY, (str(each.identity),), each.not_after

    def _control_plane(self) -> Iterable[Sample]:
        status = self.health.xds.status
        yield families.XDS_CONNECTED, (), status.phase is Phase.CONNECTED
        yield families.XDS_SYNCED, (), status.is_synced
        if status.connected_since is not None:
            yield families.XDS_CONNECTED_SINCE, (), status.connected_since
