"""The control process of a node: WIRING ONLY. Builds everything in dependency order, owns the task group.

Start: run directory, kernel side, workers, identities, first complete state, pods found in the pins, listeners
into their slots, ready. Stop (SIGTERM): not ready, workers drain; programs and pins stay, so that captured pods
are closed, not open, until the next agent. Where that one waits already they are left to it. A crash of this process
ends none of the workers.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from agent import VERSION, config, pod_sources
from agent.admin.exhausted import say_seldom
from agent.admin.server import HttpServer
from agent.app_proofs import kernel_check_of, prover_of
from agent.app_routes import PagesOf
from agent.briefing import Briefing
from agent.channel import Answered, LogLevels, Message
from agent.config import Config
from agent.dns.host_names import LooksUp
from agent.dns.resolver import look_up
from agent.enroll.admission import Admission
from agent.enroll.captures import Captures
from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.enroller import Enroller
from agent.enroll.handed import HandedNamespaces
from agent.enroll.kernel import KernelSide
from agent.enroll.kubelet_group import KubeletGroup
from agent.enroll.prefilter import Prefilter
from agent.enroll.progress import ProgressOfAll
from agent.enroll.source import PodSource
from agent.enroll.wish import PodKey
from agent.enroll.wish_file import WishFile
from agent.identity.bundle import Issued
from agent.identity.keeper import Keeper
from agent.identity.key_exchange import POST_QUANTUM, can_narrow
from agent.listening import make_listener, open_slots, prepare_company, rules_of
from agent.log import ProcessLog
from agent.log_levels import initial
from agent.mesh_state import MeshState
from agent.model.counted import counted
from agent.model.identity import Identity
from agent.model.listener import Side
from agent.pages.listening import listen
from agent.plane_access import discovery, endpoint
from agent.rpc.ca_client import CaClient
from agent.rpc.enrolment_client import EnrolmentClient
from agent.rpc.manifests_client import ManifestsClient
from agent.rpc.xds_client import XdsClient
from agent.run_lock import RunLock
from agent.standing_by import Place, StandsBy
from agent.start_error import StartError
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.stopping import hear_signals, stop_serving
from agent.succession import LeftServing, taken_in, unlike
from agent.supervisor.births import Births
from agent.supervisor.crew import Crew, Limits
from agent.supervisor.recruiter import Recruiter
from agent.supervisor.worker_link import WorkerLink
from agent.taker import Taker
from agent.telemetry import families
from agent.telemetry.metrics import Figures
from agent.telemetry.pod_figures import PodFigures
from agent.telemetry.totals import Totals
from agent.telemetry.xds_figures import XdsFigures
from agent.watch.checks import TrafficCheck
from agent.watch.guards import keep_guards
from agent.watch.host_traffic import HostTraffic
from agent.watch.interfaces import hear_interfaces
from agent.watch.kept import KeptConnections
from agent.watch.kernel_counters import KernelCounters
from agent.watch.mesh_gaps import MeshGaps
from agent.watch.neighbours import keep_neighbours
from agent.watch.pins import keep_pins
from agent.watch.private_news import hear_private_news
from agent.watch.revocation_watch import RevocationWatch
from agent.watch.run_directory import RunDirectory
from agent.wire.xds_delta import TYPES
from redirect.nursery import Nursery
from redirect.reconcile import Redirection

log = logging.getLogger(__name__)

APPLY_PATIENCE_S = 5.0
COLLECT_AFTER_S = 2.0
CERTIFICATES_PATIENCE_S, RELIEF_PATIENCE_S = 10.0, 60.0


class Agent:
    """Every part of the control process, wired."""

    def __init__(self, settings: Config, process_log: ProcessLog, lock: RunLock, nursery: Nursery) -> None:
        rng = random.Random(random.SystemRandom().getrandbits(64))
        self.settings = settings
        if settings.compliance_policy == "pqc" and (reason := can_narrow(POST_QUANTUM)):
            raise StartError(f"--compliance-policy: pqc cannot be kept: {reason}")
        self.redirection = Redirection(
            settings.instance, settings.directory, load_timeout_s=settings.load_timeout_s
        )
        self.handed = HandedNamespaces()
        self.kernel = KernelSide(self.redirection, self.handed)
        self.store = Store(Snapshot(node=settings.node))
        self.totals = Totals()
        self.figures = Figures()
        self.figures.put(families.BUILD, "ztunnel", VERSION, count=1)
        self.figures.ask(lambda: [(families.LOG_LINES_LOST, ("process",), process_log.lost)])
        self.pod_figures = PodFigures(self.figures)
        self.is_prepared = asyncio.Event()
        self.has_begun = asyncio.Event()
        self.is_serving = False
        self.steps_aside = False
        self.taker: Taker | None = None
        xds = endpoint(settings, settings.xds_address, settings.root_cert)
        ca = endpoint(settings, settings.ca_address, settings.ca_root_cert)
        self.ca = CaClient(ca, lifetime_s=int(settings.secret_ttl_s))
        self.keeper = Keeper(
            self.ca,
            clock=time.time,
            rng=rng,
            on_credentials=self._issued,
            on_forget=lambda identity: self.briefing.forgotten(identity),
        )
        self.births = Births(nursery)
        self.homes = homes = dict(zip(Side, map(str, self.redirection.private_namespaces), strict=True))
        self.crew = Crew(
            Recruiter(
                settings.directory,
                config.as_texts(settings),
                homes,
                start=self.births.start,
                ignored=unlike(settings),
            ),
            settings.worker_count,
            make_listener=partial(make_listener, homes),
            brief=lambda link: self.briefing.brief(
                partial(self.crew.tell, link), is_new=link.knows(LogLevels)
            ),
            reported=lambda link, stats: self.totals.update(stats.metrics),
            ended=self._ended,
            limits=Limits(drain_s=settings.drain_deadline_s),
            wanted=lambda names: self.xds.ask(names),
        )
        self.prefilter = Prefilter(self.store, self.kernel, is_on=settings.prefilter == "on")
        self.mesh = MeshState(
            self.store,
            self.crew.broadcast,
            lambda revision: self.crew.applied(revision, APPLY_PATIENCE_S),
            settled=self.prefilter.settled,
        )
        self.names = LooksUp(look_up, self.crew.broadcast, time.monotonic)
        self.figures.ask(self.names.samples)
        self.briefing = Briefing(self.mesh, self.keeper, self.names, self.crew.broadcast)
        self.briefing.takes_questions = settings.on_demand
        levels = initial(settings.log_level)
        # Workers that were found log as somebody told them before.
        self.briefing.log_levels = LogLevels(levels.overall, levels.targets)
        self.revocations = RevocationWatch(
            settings.crl_path, self.briefing.revoke, time.time, self.keeper.authorities
        )
        self.xds = XdsClient(
            xds,
            discovery(settings),
            self.mesh.accept_response,
            clock=time.time,
            rng=rng,
            watch=XdsFigures(self.figures, TYPES),
            on_up=self._is_back,
            on_answer=lambda names: self.crew.broadcast(Answered(names)),
        )
        self.reports = EnrolmentClient(xds, settings.node, rng)
        self.manifests = ManifestsClient(xds, settings.node, rng)
        self.captures = Captures(
            settings.node,
            settings.network,
            self.store,
            self.kernel,
            WishFile(settings.directory),
            self.keeper,
            self._serve_pods,
            self._announce,
            time.time,
            pod_sources.ways(settings),
        )
        self.zds = pod_sources.istio_cni(settings, self.handed, rng)
        self.kubernetes = pod_sources.kubernetes(settings, rng, ProgressOfAll(self.captures))
        self.sources: tuple[PodSource, ...] = (*self.kubernetes, *([self.zds] if self.zds else ()))
        self.enroller = Enroller(
            settings.node,
            settings.network,
            self.store,
            self.kernel,
            self.captures,
            self.keeper.obtain,
            self.keeper.obtain_in_time,
            sources=self.sources,
            keep_existing_s=settings.keep_existing_s,
        )
        if self.zds is not None:
            self.zds.admission = Admission(self.enroller, self.captures, self.kernel)
        self.gate = pod_sources.cni_gate(self.kubernetes, self.enroller)
        self.plugin = pod_sources.plugin(settings)
        self.store.subscribe(self.prefilter.state_changed)
        self.store.subscribe(self.enroller.state_changed)
        self.store.subscribe(self.names.state_changed)
        self.counters = KernelCounters(self.kernel, self.captures, self.figures, self.prefilter)
        self.kept = KeptConnections(self.kernel, self.captures)
        self.host_traffic = HostTraffic(settings.host_traffic, self.kernel, KubeletGroup())
        self.gaps = MeshGaps(self.captures, self.mesh, time.time)
        self.figures.ask(self.gaps.samples)
        self.run_directory = RunDirectory(settings.directory, lock, self.captures)
        self.traffic = TrafficCheck(self.kernel, self.crew, self.captures, time.monotonic)
        self.kernel_check = kernel_check_of(self)
        self.prover = prover_of(self)

    def _tell_new(self, message: Message) -> None:
        """Workers that know all fields of it that came with protocol 1."""
        for link in self.crew.everyone:
            if link.knows(LogLevels):
                link.send(message)

    def _is_back(self) -> None:
        """The control plane answers, for the first time or again."""
        self.keeper.ask_again()
        self.reports.again()

    def _serve_pods(self, pods: Iterable[EnrolledPod]) -> None:
        served = tuple(pods)
        self.pod_figures.served(pod.key for pod in served)
        self.briefing.enrolled(served)
        self.prefilter.serve(served)

    def _announce(self, pods: Iterable[PodKey]) -> None:
        if self.settings.report_enrolled:
            self.reports.report((pod.namespace, pod.name) for pod in pods)

    def _issued(self, identity: Identity, issued: Issued) -> None:
        self.briefing.issued(self._tell_new, issued)
        self.enroller.desk.wake()

    def step_aside(self, pod: str, taker: Taker | None) -> None:
        log.info("the agent of pod %s takes over: stepping aside", pod)
        self.steps_aside, self.taker = True, taker

    def _ended(self, link: WorkerLink) -> None:
        if link.stats is not None:
            self.totals.retire(link.stats.metrics["process"])
        self.traffic.ended(link.stats)

    async def prepare(self) -> None:
        """Kernel side and workers; nothing is accepted yet that was not before."""
        await self.kernel.own(*rules_of(self.settings))
        await self.prefilter.begin()
        await self.enroller.take_over()
        await prepare_company(self.settings, self.kernel, self.crew)
        await self.crew.muster()
        taken_in(self.crew, self.settings)
        self.births.rest()

    async def begin(self) -> None:
        """Everything up to serving; the discovery stream connects meanwhile.

        After the first complete state: pods of the pins, then the workers, then the listeners' slots.
        """
        await self.prepare()
        self.is_prepared.set()
        await self.xds.synced.wait()
        await self.enroller.adopt()
        # Connections wait in the kernel meanwhile, or workers of before serve them: better than to be refused.
        await self.certified(RELIEF_PATIENCE_S if self.crew.retiring else CERTIFICATES_PATIENCE_S)
        self.crew.open_gates()
        await open_slots(self.settings, self.kernel, self.crew)
        self.is_serving = True
        self.has_begun.set()
        log.info("serving: %s", counted(len(self.captures.pods), "pod"))

    async def after_prepared(self, part: Callable[[], Awaitable[None]]) -> None:
        await self.is_prepared.wait()
        await part()

    async def prove(self, first: Callable[[], object]) -> None:
        """Observe what is claimed, from the moment on that something is, when that is done which could wait so long."""
        await self.has_begun.wait()
        first()
        await self.prover.run()

    async def certified(self, patience_s: float) -> None:
        """Return when every identity in use has its certificate, or patience ends."""
        identities = [held.identity for held in self.keeper.held()]
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.gather(*map(self.keeper.obtain_in_time, identities), return_exceptions=True)
        except TimeoutError:
            log.warning("certificates are missing after %g s: serving what there is", patience_s)


async def in_time(beginning: Awaitable[None], limit_s: float | None) -> None:
    """Return when this agent serves. Raises TimeoutError where somebody else would rather."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            await beginning
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(
            f"it did not come to serve within {limit_s:g} s of taking over (--take-over-s); the agent before it goes on"
        ) from None


async def serve(
    settings: Config, process_log: ProcessLog, lock: RunLock, nursery: Nursery, place: Place | StandsBy
) -> LeftServing:
    """Run everything until SIGTERM or SIGINT, or the admin socket says so; the workers that then go on.

    Raises TimeoutError where it did not come to serve in the time that its place leaves it.
    """
    # Whoever started this process has put the collector off. By now or soon it serves, and a pause harms nobody.
    asyncio.get_running_loop().call_later(COLLECT_AFTER_S, gc.enable)
    agent, left = Agent(settings, process_log, lock, nursery), LeftServing()
    stop = asyncio.Event()
    hear_signals(stop)
    say_seldom(asyncio.get_running_loop())
    pages = PagesOf(agent, stop)
    servers = HttpServer()
    try:
        agent.revocations.begin()
        await agent.run_directory.open(lambda path: servers.serve_unix(path, pages.private))
        await listen(
            servers,
            ("--admin-address", settings.admin_address, pages.admin),
            ("--metrics-address", settings.metrics_address, pages.metrics),
            ("--readiness-address", settings.readiness_address, pages.readiness),
        )
        async with asyncio.TaskGroup() as group:
            parts = (
                agent.xds.run(),
                agent.keeper.run(),
                agent.reports.run(),
                *([agent.manifests.run()] if settings.report_enrolled else ()),  # istiod knows nothing of it
                *(source.run() for source in agent.kubernetes),
                *([agent.after_prepared(agent.zds.run)] if agent.zds is not None else ()),
                *([agent.after_prepared(agent.plugin.run)] if agent.plugin is not None else ()),
                *([place.see_off()] if isinstance(place, StandsBy) else ()),
                agent.after_prepared(agent.crew.keep),
                hear_interfaces(agent.enroller.hear),
                agent.after_prepared(lambda: keep_neighbours(agent.kernel, agent.captures.are_on_bridge)),
                agent.after_prepared(lambda: keep_guards(agent.kernel)),
                agent.after_prepared(
                    lambda: keep_pins(agent.redirection.pin_directories, agent.enroller.mend)
                ),
                agent.after_prepared(
                    lambda: hear_private_news(
                        lambda: agent.redirection.private_namespaces, agent.kernel_check
                    )
                ),
                agent.enroller.follow(),
                agent.after_prepared(agent.prefilter.run),
                agent.names.run(),
                agent.revocations.run(),
                agent.after_prepared(agent.counters.watch),
                agent.after_prepared(agent.kept.watch),
                agent.after_prepared(agent.host_traffic.watch),
                agent.prove(pages.load),
            )
            beginning = group.create_task(in_time(agent.begin(), place.limit_s))
            tasks = [group.create_task(part) for part in parts]
            await stop.wait()
            # One that is still beginning must not fill the slots that the stop empties.
            beginning.cancel()
            agent.is_serving = False
            begun = lock if agent.has_begun.is_set() else None
            left = await stop_serving(agent.kernel, agent.crew, settings, begun, agent.steps_aside)
            left.taker = agent.taker
            for task in tasks:
                task.cancel()
    finally:
        agent.run_directory.close()
        await servers.close()
        await agent.ca.close()
        agent.crew.close()
        agent.births.close()
        agent.kernel.close()
        agent.prefilter.close()
        agent.handed.close()
    return left
