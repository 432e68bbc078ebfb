"""What the admin, metrics and readiness servers answer: questions to the parts, put into HTTP.

Reading is served on loopback as well; what changes something only on the unix socket, which is root's.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Any, Protocol

import psutil

from agent.admin.readiness import CertificateFact, Facts, Health, judge
from agent.admin.server import BadRequest, Request, Response, Routes, as_json, text
from agent.config import Config
from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.enroller import Enroller
from agent.enroll.kernel import KernelSide
from agent.enroll.wish import PodKey, Where, Wish
from agent.identity.keeper import Keeper
from agent.model.workload import TunnelProtocol
from agent.rpc.xds_client import Phase, XdsClient
from agent.state.store import Store
from agent.supervisor.crew import Crew
from agent.telemetry import exposition, families
from agent.telemetry.metrics import Figures
from agent.telemetry.totals import Totals
from redirect.errors import RedirectError
from redirect.layout import LAYOUT_HASH, REASONS

KERNEL_POLL_S = 1.0
DROPS = {(reason.program, reason.name) for reason in REASONS if reason.is_drop}


class Counted(Protocol):
    """Who holds the figures of this agent."""

    totals: Totals
    figures: Figures

    @property
    def report_error(self) -> str: ...


class Pages:
    """Handlers over the parts of the control process."""

    def __init__(
        self,
        settings: Config,
        store: Store,
        xds: XdsClient,
        keeper: Keeper,
        enroller: Enroller,
        kernel: KernelSide,
        crew: Crew,
        counted: Counted,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._xds = xds
        self._keeper = keeper
        self._enroller = enroller
        self._kernel = kernel
        self._crew = crew
        self._counted = counted
        self._wall = wall
        self._drops_per_s = 0.0
        self._kernel_problem = ""
        self._process = psutil.Process()
        self.is_serving = False

    def admin_routes(self) -> Routes:
        return {
            ("GET", "/status"): self._status,
            ("GET", "/connections"): self._connections,
            ("GET", "/tunnels"): self._tunnels,
            ("GET", "/announced"): self._announced,
        }

    def private_routes(self, stop: asyncio.Event) -> Routes:
        async def quit_(_: Request) -> Response:
            stop.set()
            return as_json({"stopping": True})

        return {
            **self.admin_routes(),
            ("POST", "/enroll"): self._enroll,
            ("POST", "/unenroll"): self._unenroll,
            ("POST", "/quit"): quit_,
        }

    def metrics_routes(self) -> Routes:
        return {("*", "/metrics"): self._metrics, ("*", "/stats/prometheus"): self._metrics}

    def readiness_routes(self) -> Routes:
        return {("GET", "/healthz/ready"): self._ready}

    async def watch_kernel(self) -> None:
        """Keep the figures of this process and the rate of drops current, until cancelled."""
        drops, at_s = await self._read_kernel(), time.monotonic()
        while True:
            await asyncio.sleep(KERNEL_POLL_S)
            now_drops, now_s = await self._read_kernel(), time.monotonic()
            self._drops_per_s = max(0, now_drops - drops) / (now_s - at_s)
            drops, at_s = now_drops, now_s

    async def _read_kernel(self) -> int:
        """Put the kernel's counters and this process's own among the figures; answers the packets dropped."""
        figures = self._counted.figures
        figures.put(families.OPEN_FDS, count=self._process.num_fds())
        figures.put(families.MAX_FDS, count=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        figures.put(families.PODS_ACTIVE, count=len(self._enroller.pods))
        figures.put(families.PODS_PENDING, count=len(self._enroller.unrecognised))
        try:
            counters = await self._kernel.run(lambda redirection: redirection.stats())
            self._kernel_problem = ""
        except (RedirectError, OSError) as error:
            self._kernel_problem = f"the kernel's counters cannot be read: {error}"
            counters = {}
        for (program, reason), packets in counters.items():
            figures.put(families.REDIRECT_PACKETS, program, reason, count=packets)
        return sum(packets for key, packets in counters.items() if key in DROPS)

    def health(self) -> Health:
        enroller = self._enroller
        problems = [str(trouble) for trouble in enroller.troubles]
        problems += [self._kernel_problem] if self._kernel_problem else []
        if self._counted.report_error:
            problems.append(
                f"the control plane was not told which pods are captured: {self._counted.report_error}"
            )
        captured = len(enroller.pods.keys() - {trouble.pod for trouble in enroller.troubles})
        return judge(
            Facts(
                generation=LAYOUT_HASH,
                pods_captured=captured,
                pods_wanted=len(enroller.pods) + len(enroller.unrecognised),
                xds=self._xds_word(),
                xds_error=self._xds.status.last_error,
                certificates=tuple(self._certificates()),
                drops_per_s=round(self._drops_per_s, 1),
                workers_alive=len(self._crew.links),
                workers_wanted=self._settings.worker_count,
                problems=tuple(problems) if self.is_serving else (*problems, "not serving yet"),
            )
        )

    def _xds_word(self) -> str:
        status = self._xds.status
        if not status.is_synced:
            return "waiting"
        return "synced" if status.phase is Phase.CONNECTED else "stale"

    def _certificates(self) -> list[CertificateFact]:
        now = self._wall()
        return [
            CertificateFact(str(held.identity), held.not_after - now if held.not_after else None, held.error)
            for held in self._keeper.held()
        ]

    async def _status(self, _: Request) -> Response:
        health = self.health()
        troubles = {trouble.pod: str(trouble) for trouble in self._enroller.troubles}
        pods = [
            {
                "pod": str(pod.key),
                "identity": str(pod.identity),
                "interface": pod.ifname,
                "addresses": list(map(str, pod.addresses)),
                "trouble": troubles.get(pod.key, ""),
            }
            for pod in self._enroller.pods.values()
        ]
        services = {
            str(key): [str(vip.ip) for vip in s.vips] for key, s in self._store.current.services.items()
        }
        return as_json(
            {
                "state": health.state,
                "line": health.line,
                "reasons": health.reasons,
                "node": self._settings.node,
                "pods": pods,
                "services": services,
                "workers": [{"slot": link.slot, "pid": link.pid} for link in self._crew.links],
                "worker_restarts": self._crew.restarts,
                "refused_resources": dict(self._xds.status.refused),
            }
        )

    async def _connections(self, _: Request) -> Response:
        return as_json(flatten(await self._crew.ask_all("connections")))

    async def _tunnels(self, _: Request) -> Response:
        return as_json(flatten(await self._crew.ask_all("tunnels")))

    async def _announced(self, _: Request) -> Response:
        workloads = self._store.current.workloads.values()
        return as_json([f"{w.namespace}/{w.name}" for w in workloads if w.protocol is TunnelProtocol.HBONE])

    async def _ready(self, _: Request) -> Response:
        if self.is_serving:
            return text("ready\n")
        return text("not ready, pending: state manager\n", 500)

    async def _metrics(self, request: Request) -> Response:
        await self._read_kernel()
        snapshot = self._counted.totals.snapshot(self._counted.figures)
        # A large exposition takes a while: off the loop, so that enrolment and policy do not wait for it.
        body = await asyncio.to_thread(exposition.expose, snapshot)
        return Response(body, content_type=exposition.content_type([request.headers.get("accept", "")]))

    async def _enroll(self, request: Request) -> Response:
        body = request.json()
        try:
            wish = Wish(pod_of(body), Where(*(body.get(key) for key in ("netns", "pid", "ifname"))))
            keep = bool(body.get("keep_existing", False))
            return as_json(await self._enroller.enroll(wish, keep_existing=keep))
        except (EnrolmentRefused, RedirectError, OSError, ValueError) as error:
            raise BadRequest(str(error)) from error

    async def _unenroll(self, request: Request) -> Response:
        pod = pod_of(request.json())
        try:
            await self._enroller.unenroll(pod)
        except (EnrolmentRefused, RedirectError, OSError) as error:
            raise BadRequest(str(error)) from error
        return as_json({"unenrolled": str(pod)})


def pod_of(body: dict[str, Any]) -> PodKey:
    namespace, name = body.get("namespace"), body.get("name")
    if not isinstance(namespace, str) or not isinstance(name, str) or not namespace or not name:
        raise BadRequest("the request names no pod: namespace and name are needed")
    return PodKey(namespace, name)


def flatten(answers: list[object]) -> list[object]:
    return [row for answer in answers if isinstance(answer, list) for row in answer]
