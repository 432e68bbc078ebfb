"""Which page asks which parts of the agent: WIRING ONLY, beside `agent.app`, which builds those parts."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from agent import channel
from agent.admin.server import Handler
from agent.app_proofs import prove_kernel
from agent.log_levels import Levels, initial
from agent.model.address import SocketAddress
from agent.pages.announced import AnnouncedPage
from agent.pages.audit import AuditPage
from agent.pages.certificates import CertificatesPage
from agent.pages.cni import CniPage
from agent.pages.config_dump import ConfigDumpPage
from agent.pages.enrolment import EnrollPage, UnenrollPage
from agent.pages.explain import ExplainPage
from agent.pages.figures import AgentFigures
from agent.pages.health import AgentHealth
from agent.pages.limits import LimitsPage
from agent.pages.log_level import LoggingPage
from agent.pages.mesh_lists import PoliciesPage, ServicesPage
from agent.pages.metrics import MetricsPage
from agent.pages.pprof import pprof_page
from agent.pages.quit import QuitPage, ShutdownPage, StepAsidePage
from agent.pages.root_only import RootOnly
from agent.pages.routes import Pages
from agent.pages.settings import SettingsPage
from agent.pages.status import StatusPage
from agent.pages.worker_list import WorkerListPage
from agent.pages.zds import ZdsFigures
from agent.watch.audit import Audit
from redirect import sock_diag

if TYPE_CHECKING:
    from agent.app import Agent


def pages_of(agent: Agent, stop: asyncio.Event) -> Pages:
    """Every page, each with what it asks and no more."""
    health = AgentHealth(
        captures=agent.captures,
        xds=agent.xds,
        mesh=agent.mesh,
        reports=agent.reports,
        manifests=agent.manifests,
        keeper=agent.keeper,
        crew=agent.crew,
        workers_wanted=agent.settings.worker_count,
        counters=agent.counters,
        sources=(*agent.sources, *([agent.plugin] if agent.plugin is not None else ()), agent.host_traffic),
        prover=agent.prover,
        is_serving=lambda: agent.is_serving,
    )
    agent.figures.ask(AgentFigures(health))
    agent.figures.ask(agent.revocations.samples)
    if agent.zds is not None:
        agent.figures.ask(ZdsFigures(agent.zds))
    return Pages(
        status=StatusPage(
            settings=agent.settings,
            health=health,
            captures=agent.captures,
            kernel=agent.kernel,
            store=agent.store,
            crew=agent.crew,
            xds=agent.xds,
            gaps=agent.gaps,
            kept=agent.kept,
            totals=agent.totals,
            figures=agent.figures,
            prefilter=agent.prefilter,
            host_traffic=agent.host_traffic,
            zds=agent.zds,
        ),
        connections=WorkerListPage(agent.crew, "connections"),
        tunnels=WorkerListPage(agent.crew, "tunnels"),
        announced=AnnouncedPage(agent.store),
        certificates=CertificatesPage(agent.keeper, time.time),
        policies=PoliciesPage(agent.store),
        limits=LimitsPage(agent.store, agent.crew),
        services=ServicesPage(agent.store),
        config_dump=ConfigDumpPage(
            settings=agent.settings,
            store=agent.store,
            captures=agent.captures,
            keeper=agent.keeper,
            crew=agent.crew,
        ),
        logging=for_root(logging_page(agent)),
        shutdown=for_root(ShutdownPage(stop)),
        pprof=pprof_page,
        audit=AuditPage(Audit(lambda: prove_kernel(agent), agent.kernel, agent.captures)),
        enroll=EnrollPage(agent.enroller),
        unenroll=UnenrollPage(agent.enroller),
        cni=CniPage(agent.gate),
        quit=QuitPage(stop),
        step_aside=StepAsidePage(stop, agent.step_aside),
        metrics=MetricsPage(agent.counters, agent.totals, agent.figures),
        explain=ExplainPage(agent.settings, agent.store, agent.names.as_told),
        settings=SettingsPage(agent.settings),
    )


def logging_page(agent: Agent) -> LoggingPage:
    """Begins with what the options say, which workers were told when they came."""

    def tell(levels: Levels) -> None:
        agent.briefing.log_levels = channel.LogLevels(levels.overall, levels.targets)
        agent.crew.broadcast(agent.briefing.log_levels)

    first = initial(agent.settings.log_level)
    return LoggingPage(first, tell, first)


def for_root(page: Handler) -> RootOnly:
    def owner_of(client: SocketAddress, server: SocketAddress) -> int | None:
        return sock_diag.owner(client, server)

    return RootOnly(page, owner_of)
