"""`ztun control-plane`: WIRING ONLY. Manifests in, discovery and certificates out, over one TLS port.

`serve` runs until it is cancelled or told to stop. In a cluster `cluster` fills the directory, knows the callers and
keeps the authority. The flow, driven by `following`: `read.directory` → `publication` (`translate.addressing` fills in
addresses, `translate.compose` makes resources) → `serve.publisher` → every stream's `serve.xds_session`. Enrolment
reports enter before `translate`; what is wrong with the manifests leaves by `report` to `serve.concerns`,
`serve.status` and `serve.metrics`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from agent.admin.server import HttpServer
from agent.controlplane.following import Following
from agent.controlplane.kubeapi.grounds import Grounds, Way, grounds
from agent.controlplane.publication import Publication
from agent.controlplane.read.directory import ManifestDirectory
from agent.controlplane.read.notices import watch
from agent.controlplane.read.objects import SYSTEM_NAMESPACE
from agent.controlplane.report import Announcer
from agent.controlplane.serve.access import Code, Refused, calling_node
from agent.controlplane.serve.ca import Clock, open_authority
from agent.controlplane.serve.ca_service import CertificateService
from agent.controlplane.serve.concerns import Concerns
from agent.controlplane.serve.conditions_file import ConditionsFile
from agent.controlplane.serve.enrolment_service import EnrolledPods, EnrolmentService
from agent.controlplane.serve.hearing import PATIENCE_S, Hearing
from agent.controlplane.serve.manifests_service import ManifestsService
from agent.controlplane.serve.metrics import metrics_page
from agent.controlplane.serve.publisher import Publisher
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.serve.tokens import TokenStore
from agent.controlplane.serve.xds_service import POLICY_GRACE_S, DiscoveryService
from agent.controlplane.state_dir import LOCK, StateDirectory, StateError
from agent.controlplane.translate.mesh import MeshSettings
from agent.controlplane.ztunnel_file.serving import Unchanging
from agent.model.address import CIDR, parse_cidr, split_listen
from agent.model.identity import DEFAULT_TRUST_DOMAIN

SERVER_NAMES = ("istiod.istio-system.svc", "localhost", "127.0.0.1", "::1")
STOP_GRACE_S = 2.0
GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", -1),
    # Agents ping every 30 s (docs/WIRE.md#ca); the default would call that abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
    # A crowd that comes at once is let in one by one, each behind a whole mesh for those before. Who waits for 30 s,
    # the default, would be cancelled, and come back as one more.
    ("grpc.server_max_unrequested_time_in_server", 600),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything `ztun control-plane` can be told. Port 0 takes a free one."""

    manifests: Path
    state_dir: Path
    listen: str = "127.0.0.1:15012"
    service_cidr: tuple[CIDR, ...] = field(
        default_factory=lambda: (parse_cidr("10.96.0.0/16"), parse_cidr("fd77:96::/112"))
    )
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    cluster_id: str = "Kubernetes"
    root_namespace: str = SYSTEM_NAMESPACE
    server_names: tuple[str, ...] = ()
    """More names and addresses for the server's certificate."""
    policy_grace_s: float = POLICY_GRACE_S
    metrics_address: str = ""
    """HOST:PORT of plain HTTP `/metrics`; empty: none."""
    metrics_optional: bool = False
    """Go on without metrics if that port is taken."""
    status_out: Path | None = None
    """File for the status conditions of all objects."""
    ztunnel_config: Path | None = None
    """A file of ztunnel's that is served in place of manifests."""
    cluster: Way | None = None
    """The way to the Kubernetes API that fills `manifests`, knows the callers and keeps the authority."""


def now() -> datetime:
    return datetime.now(UTC)


async def serve(
    options: Options,
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[str], None] | None = None,
    clock: Clock = now,
) -> None:
    """Run a control plane. `started` gets its HOST:PORT once something is served. Raises StateError."""
    stop = stop or asyncio.Event()
    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            given, running = None, []
            if options.cluster is not None:
                given = stack.enter_context(
                    grounds(options.cluster, options.manifests, options.trust_domain, clock)
                )
                running.append(tasks.create_task(given.run()))
            running.append(tasks.create_task(_serve(options, given, started, clock)))
            await stop.wait()
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group:
        expected, defects = group.split(StateError)
        if expected is None or defects is not None:
            raise
        raise StateError("; ".join(map(str, expected.exceptions))) from group


async def _serve(
    options: Options, given: Grounds | None, started: Callable[[str], None] | None, clock: Clock
) -> None:
    """Until cancelled, once there is what to stand on."""
    if given is not None:
        await given.ready()
    plane = await ControlPlane.start(options, clock, given)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(plane.follow())
            if started is not None:
                tasks.create_task(plane.announce(started))
    finally:
        await plane.close()


class ControlPlane:
    """The built objects of one control plane. `start` listens; `follow` takes changes in until cancelled."""

    def __init__(
        self, address: str, following: Following | Unchanging, publisher: Publisher, ending: AsyncExitStack
    ) -> None:
        self.address, self._ending = address, ending
        self._following, self._publisher = following, publisher

    @classmethod
    async def start(cls, options: Options, clock: Clock = now, given: Grounds | None = None) -> ControlPlane:
        """Listen and take the manifests in. Raises StateError, and leaves nothing open then."""
        ending = AsyncExitStack()
        try:
            return await cls._start(options, clock, ending, given)
        except BaseException:
            await ending.aclose()
            raise

    @classmethod
    async def _start(
        cls, options: Options, clock: Clock, ending: AsyncExitStack, given: Grounds | None
    ) -> ControlPlane:
        state = StateDirectory(options.state_dir)
        ending.callback(os.close, state.hold(LOCK))
        authority = given.authority if given else open_authority(state, options.trust_domain, clock)
        publisher, concerns, board = Publisher(), Concerns(), StatusBoard(state)
        ending.callback(board.save)
        pods, tokens = EnrolledPods(state), TokenStore(state)

        async def of_files(token: str) -> str | None:
            return tokens.node_of(token)

        node_of = given.node_of if given else of_files
        following: Following | Unchanging
        publication: Publication | Unchanging
        if options.ztunnel_config is not None:
            following = publication = Unchanging(
                options.ztunnel_config, options.trust_domain, pods, publisher, board
            )
        else:
            settings = MeshSettings(
                cluster_id=options.cluster_id,
                trust_domain=options.trust_domain,
                root_namespace=options.root_namespace,
                is_of_cluster=options.cluster is not None,
            )
            publication = Publication(settings, options.service_cidr, pods, publisher, board, state)
            announcer = Announcer(board, concerns)
            notices = given.notices if given else partial(watch, options.manifests)
            conditions = ConditionsFile(options.status_out, clock) if options.status_out else None
            directory = ManifestDirectory(options.manifests, state)
            following = Following(notices, directory, publication, announcer, board, settings, conditions)

        async def authenticate(context: Any) -> str:
            try:
                return await calling_node(context.invocation_metadata(), node_of, options.cluster_id)
            except StateError as error:
                log.error("nobody can be let in: %s", error)
                raise Refused(Code.UNAVAILABLE, "node tokens cannot be checked now; see its log") from error

        following.begin()
        names = (*SERVER_NAMES, split_listen(options.listen)[0], *options.server_names)
        credentials = grpc.ssl_server_credentials(
            [authority.server_credentials([n for n in names if n not in ("0.0.0.0", "::")], clock())]
        )
        server = grpc.aio.server(options=GRPC_OPTIONS)

        def heard() -> None:
            board.unheard(hearing.unheard(p.node for p in publication.inventory().pods if p.is_live))
            publisher.bell.ring()

        hearing = Hearing(pods.is_lost, heard)
        giving_up = asyncio.get_running_loop().call_later(PATIENCE_S, hearing.give_up)
        ending.callback(giving_up.cancel)
        discovery = DiscoveryService(publisher, board, authenticate, hearing, options.policy_grace_s)
        server.add_generic_rpc_handlers(
            (
                discovery.handler(),
                CertificateService(authority, publisher, authenticate, clock).handler(),
                EnrolmentService(
                    pods, authenticate, publication.inventory, publication.refresh, hearing.hear
                ).handler(),
                ManifestsService(concerns, publisher, authenticate).handler(),
            )
        )
        address = await _listen(server, options.listen, credentials)
        ending.push_async_callback(server.stop, grace=STOP_GRACE_S)
        http = HttpServer()
        ending.push_async_callback(http.close)
        metrics = await _serve_metrics(http, options, board)
        ending.callback(concerns.bell.ring)
        ending.callback(publisher.close)
        board.listening(address, metrics, str(options.ztunnel_config or options.manifests))
        source = options.ztunnel_config or options.manifests
        log.info("listening on %s, manifests of %s, root in %s", address, source, options.state_dir)
        return cls(address, following, publisher, ending)

    async def announce(self, started: Callable[[str], None]) -> None:
        """Call `started` as soon as there is something to serve, and say why there is not."""
        with self._publisher.bell.listen() as changed:
            reason = ""
            while not self._publisher.serves_something:
                if reason != (reason := self._publisher.missing):
                    log.warning("not ready: %s", reason)
                await changed.wait()
                changed.clear()
        started(self.address)

    async def follow(self) -> None:
        """Serve every change of the manifests; runs until cancelled."""
        await self._following.run()

    @property
    def is_at_work(self) -> bool:
        """Whether a thread reads or writes for it."""
        return self._following.is_at_work

    async def close(self) -> None:
        """End every stream with a status that makes its client come back, then stop listening."""
        await self._following.end()
        await self._ending.aclose()


async def _serve_metrics(http: HttpServer, options: Options, board: StatusBoard) -> str:
    """Where metrics are served; empty if nowhere."""
    if not options.metrics_address:
        return ""
    try:
        await http.serve_tcp(options.metrics_address, {("GET", "/metrics"): metrics_page(board)})
    except OSError as error:
        problem = f"no metrics: {error.strerror}; choose another --metrics-address, or `off`"
        if not options.metrics_optional:
            raise StateError(problem) from error
        log.warning("%s", problem)
        return ""
    return options.metrics_address


async def _listen(server: Any, listen: str, credentials: Any) -> str:
    host, wanted = split_listen(listen)
    shown = f"[{host}]" if ":" in host else host
    try:
        port = server.add_secure_port(f"{shown}:{wanted}", credentials)
        if not port:
            raise RuntimeError("the port was not given")
        await server.start()
    except RuntimeError as error:
        raise StateError(
            f"--listen: cannot listen on {listen}: somebody else does (another control plane?), or it is no address of "
            "this machine; choose another"
        ) from error
    return f"{shown}:{port}"
