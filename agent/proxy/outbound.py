"""Outbound (15001): whose connection it is, where it goes, and by which path.

The source workload is the pod that owns the arriving address, never one looked up from what the packet says
beyond that. `state.resolve` answers the route; this file carries it out: a tunnel from the pool, a plain dial
by the net side, or a hand-over inside the node.
"""

from __future__ import annotations

import random
import socket
from functools import partial

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome, Refusal, Unknown
from agent.model.route import Hop, Route
from agent.model.workload import Workload
from agent.net.dial import Dialler
from agent.net.loop import Loop
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.tunnel import Tunnel
from agent.proxy.captured import CapturedLife, Keeper
from agent.proxy.far_network import FarNetworks
from agent.proxy.life import Attempt
from agent.proxy.local import LocalPath
from agent.proxy.pods import LocalPods
from agent.proxy.pool import Pool
from agent.proxy.pool_key import Headers, PoolKey
from agent.proxy.registry import Live, Registry
from agent.proxy.report import Reporter, claims
from agent.proxy.seeker import Seeker
from agent.state.resolve import Options, resolve
from agent.state.store import Store
from agent.telemetry.record import Opened
from agent.wire.baggage import baggage, forwarded, parse_baggage, traceparent
from agent.wire.hbone import connect_head

ENDED_EARLY = "the other end closed before the client was told that it is reached"


class Outbound:
    """Accepts captured connections; one per worker. `dialler` is of the net side."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        pods: LocalPods,
        registry: Registry,
        pool: Pool,
        far_networks: FarNetworks,
        local_path: LocalPath | None,
        dialler: Dialler,
        reporter: Reporter,
        options: Options,
        rng: random.Random,
        seeker: Seeker,
    ) -> None:
        self.loop = loop
        self.store = store
        self.pods = pods
        self.registry = registry
        self.pool = pool
        self.far_networks = far_networks
        self.local_path = local_path
        self.dialler = dialler
        self.reporter = reporter
        self.options = options
        self.rng = rng
        self.seeker = seeker

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """A connection a pod opened: `peer` is the pod, `local` the original destination."""
        OutboundConnection(self, sock, peer, local).start()


class OutboundConnection(CapturedLife):
    """One captured connection; `local` is the original destination."""

    __slots__ = ("_outbound", "_uncounted")
    direction = Direction.OUTBOUND

    def __init__(
        self, outbound: Outbound, client: socket.socket | Keeper, peer: SocketAddress, local: SocketAddress
    ) -> None:
        super().__init__(outbound.loop, outbound.registry, outbound.reporter, client, peer, local)
        self._outbound = outbound
        self._uncounted: Opened | None = None

    def _begin(self) -> Attempt:
        outbound = self._outbound
        if outbound.registry.is_full:
            raise Refusal(Outcome.OVERLOADED)
        snapshot = outbound.store.current
        source = outbound.pods.workload(snapshot, self.peer.ip, is_source=True)
        try:
            route = resolve(snapshot, source, self.local, outbound.rng, outbound.options)
        except Unknown as unknown:
            return self._seek(outbound.seeker, unknown)
        hostname = route.hostname
        if route.destination is not None and not route.destination.addresses:
            hostname = route.destination.hostname
        if hostname:
            outbound.reporter.named(source, hostname)
        return self._follow(route, source)

    def _follow(self, route: Route, source: Workload) -> Attempt:
        outbound = self._outbound
        is_far = route.hop is Hop.DOUBLE_HBONE
        is_tunnel = is_far or route.hop is Hop.HBONE
        local_path = outbound.local_path
        if local_path is not None and not (route.hop is Hop.HBONE and local_path.takes(route)):
            local_path = None
        hop, reached = route.hop, route.target
        if local_path is not None:
            hop, reached = Hop.TCP, local_path.reaches(route)
        live = Live(self.direction, self.peer.ip, self.peer, self.local, reached, hop.value, self)
        opened = Opened(
            direction=self.direction,
            source_address=self.peer,
            destination_address=reached,
            source=source,
            destination=route.destination,
            source_identity=source.identity if is_tunnel else None,
            is_mutual_tls=is_tunnel and local_path is None,
            authority=route.authority,
            service=route.service,
        )
        if is_far:
            # Counted once the far end is known, which says by itself what it is.
            self._live, self._uncounted = live, opened
        else:
            self._record(live, opened)
        outbound.registry.add(live)
        if local_path is not None:
            half = self._far_half = local_path.hand_over(source, self.peer, route, self)
            return half.reach(self)
        if is_tunnel:
            return self._ask_for_tunnel(source, route)
        return outbound.dialler.dial(route.target, self.peer, self)

    def _ask_for_tunnel(self, source: Workload, route: Route) -> Attempt:
        outbound = self._outbound
        assert route.authority is not None
        host = route.service.hostname if route.service is not None else None
        trace = outbound.rng.randbytes(24)
        head = connect_head(
            route.authority,
            [
                ("baggage", baggage(source)),
                ("forwarded", forwarded(self.peer, host)),
                ("traceparent", traceparent(trace[:16], trace[16:])),
            ],
        )
        if route.hop is Hop.DOUBLE_HBONE:
            return outbound.far_networks.ask(route, source.identity, self.peer.ip, head, self)
        key = PoolKey(source.identity, route.accepted, route.target, self.peer.ip)
        return outbound.pool.open(key, head, self)

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        """The pool's answer."""
        if self._hold is not None:
            tunnel.owner = self
            self._wait(self._hold, partial(self.opened, tunnel, headers), tunnel.reset)
            return
        self._attempt = None
        peer = tunnel.link.peer
        if self._uncounted is not None:
            self._count_late(self._uncounted.proven(peer), headers)
        assert self._tracked is not None
        self._tracked.opened = self._tracked.opened.proven(peer)
        self._carry(TunnelRelay(self._loop, self._sock, tunnel, self))

    def refused(self, refusal: Refusal) -> None:
        if self._uncounted is not None:
            self._count_late(self._uncounted, ())
        super().refused(refusal)

    def _count_late(self, opened: Opened, headers: Headers) -> None:
        self._uncounted = None
        said = claims(parse_baggage([value for name, value in headers if name == "baggage"]))
        assert self._live is not None
        self._record(self._live, opened._replace(destination_claims=said))

    def gone(self, tunnel: Tunnel) -> None:
        """The tunnel ended while a held client was on its way in: it is not kept waiting for a time-out."""
        if self._hold is not None:
            self._hold.let_go = None
        self.refused(tunnel.failure or Refusal(Outcome.RESET, ENDED_EARLY))

    def _join(self, sock: socket.socket) -> PlainRelay:
        return PlainRelay(self._loop, self._sock, sock, self)
