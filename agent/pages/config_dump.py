"""`/config_dump`: everything this agent holds, as ztunnel says it, so that `istioctl ztunnel-config` reads it.

The connections are those of all workers. Keys of certificates are in no part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.admin.server import Request, Response
from agent.config import Config
from agent.dump.certificates import certificate_row
from agent.dump.mesh import policy_rows, service_rows, staged_services, workload_rows
from agent.dump.pods import PENDING, UP, PodFact, workload_state
from agent.dump.settings import config_row, own_row, version_row
from agent.dump.text import written
from agent.enroll.captures import Captures
from agent.identity.keeper import Keeper
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.supervisor.crew import Crew

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDumpPage:
    settings: Config
    store: Store
    captures: Captures
    keeper: Keeper
    crew: Crew

    async def __call__(self, _: Request) -> Response:
        answers = await self.crew.ask_all("connections")
        connections = [row for answer in answers if isinstance(answer, list) for row in answer]
        pods, certificates = tuple(self._pods()), list(self._certificates())
        snapshot = self.store.current
        # Off the loop: a large mesh takes seconds, and enrolment and policy do not wait. A snapshot never changes.
        body = await asyncio.to_thread(
            lambda: written(self._sections(snapshot, certificates, workload_state(pods, connections)))
        )
        return Response(body, content_type="application/json")

    def _sections(
        self, snapshot: Snapshot, certificates: list[Row], state: dict[str, Row]
    ) -> Iterator[tuple[str, Any]]:
        yield "workloads", workload_rows(snapshot)
        yield "services", service_rows(snapshot)
        yield "policies", policy_rows(snapshot)
        yield "stagedServices", staged_services(snapshot)
        yield "staticConfig", {"workloads": [], "services": [], "policies": []}
        yield "version", version_row(self.settings)
        yield "config", config_row(self.settings)
        yield "ztun", own_row(self.settings)
        yield "certificates", certificates
        yield "workloadState", state

    def _pods(self) -> Iterator[PodFact]:
        """Those that are served, and those that are wanted and wait."""
        captures = self.captures
        troubled = {trouble.pod for trouble in captures.troubles}
        wishes = captures.wishes
        for pod in captures.pods.values():
            yield PodFact(
                pod.namespace,
                pod.name,
                PENDING if pod.key in troubled else UP,
                wishes[pod.key].uid if pod.key in wishes else "",
                pod.service_account,
                pod.trust_domain,
            )
        for key, wish in wishes.items():
            if key not in captures.pods:
                yield PodFact(key.namespace, key.name, PENDING, wish.uid, wish.service_account)

    def _certificates(self) -> Iterator[Row]:
        for held in self.keeper.held():
            issued = self.keeper.get(held.identity)
            yield certificate_row(held, issued.chain if issued else (), issued.roots if issued else ())
