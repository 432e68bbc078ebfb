"""Outbound (15001): whose connection it is, where it goes, and by which path.

The source workload is the pod that owns the arriving address, never one looked up from what the packet says
beyond that. `state.resolve` answers the route; this file carries it out: a tunnel from the pool, a plain dial
by the net side, or a hand-over inside the node. Failures close the connection with an RST, because there is no
other way to tell an application that speaks TCP.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome, Refusal
from agent.model.route import Hop, Route
from agent.model.workload import Workload
from agent.net.dial import Dial, dial
from agent.net.loop import Loop
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.sockets import SideSockets
from agent.net.tunnel import Tunnel
from agent.proxy.connector import dial_refusal
from agent.proxy.delivery import reset
from agent.proxy.local import HandedOver, LocalPath
from agent.proxy.pods import LocalPods
from agent.proxy.pool import Headers, Pool, PoolKey
from agent.proxy.registry import Live, Registry
from agent.proxy.report import Reporter, Tracked
from agent.state.resolve import Options, resolve
from agent.state.store import Store
from agent.telemetry.record import Opened
from agent.wire.baggage import baggage, forwarded, traceparent
from agent.wire.hbone import connect_head


class Outbound:
    """Accepts captured connections; one per worker. `sockets` are of the net side."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        pods: LocalPods,
        registry: Registry,
        pool: Pool,
        local_path: LocalPath | None,
        sockets: SideSockets,
        reporter: Reporter,
        options: Options,
        rng: random.Random,
        random_port: Callable[[], int],
        connect_timeout_s: float,
    ) -> None:
        self.loop = loop
        self.store = store
        self.pods = pods
        self.registry = registry
        self.pool = pool
        self.local_path = local_path
        self.sockets = sockets
        self.reporter = reporter
        self.options = options
        self.rng = rng
        self.random_port = random_port
        self.connect_timeout_s = connect_timeout_s

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """A connection a pod opened: `peer` is the pod, `local` the original destination."""
        OutboundConnection(self, sock, peer, local).start()


class OutboundConnection:
    """One captured connection: from accept to the end of its relay."""

    __slots__ = (
        "_dial",
        "_ended",
        "_half",
        "_live",
        "_original",
        "_owner",
        "_peer",
        "_relay",
        "_sock",
        "_tracked",
    )

    def __init__(
        self, owner: Outbound, sock: socket.socket, peer: SocketAddress, original: SocketAddress
    ) -> None:
        self._owner = owner
        self._sock = sock
        self._peer = peer
        self._original = original
        self._dial: Dial | None = None
        self._relay: PlainRelay | TunnelRelay | None = None
        self._live: Live | None = None
        self._tracked: Tracked | None = None
        self._half: HandedOver | None = None
        self._ended = False

    def start(self) -> None:
        owner = self._owner
        try:
            if owner.registry.is_full:
                raise Refusal(Outcome.OVERLOADED)
            snapshot = owner.store.current
            source = owner.pods.workload(snapshot, self._peer.ip, is_source=True)
            route = resolve(snapshot, source, self._original, owner.rng, owner.options)
            self._begin(source, route)
        except Refusal as refusal:
            self._refuse(refusal)

    def _begin(self, source: Workload, route: Route) -> None:
        owner = self._owner
        if route.hop is Hop.DOUBLE_HBONE:
            raise Refusal(Outcome.UNSUPPORTED, "tunnels through a network gateway are not supported yet")
        is_tunnel = route.hop is Hop.HBONE
        hands_over = is_tunnel and owner.local_path is not None and owner.local_path.takes(route)
        self._live = Live(
            Direction.OUTBOUND,
            self._peer.ip,
            self._peer,
            self._original,
            route.target,
            route.hop.value,
            self.close,
        )
        owner.registry.add(self._live)
        self._tracked = owner.reporter.opened(
            Opened(
                direction=Direction.OUTBOUND,
                source_address=self._peer,
                destination_address=route.target,
                source=source,
                destination=route.destination,
                source_identity=source.identity if is_tunnel else None,
                is_mutual_tls=is_tunnel and not hands_over,
                authority=route.authority,
                service=route.service,
            )
        )
        if not is_tunnel:
            self._dial_plain(route)
        elif hands_over and owner.local_path is not None:
            self._half = owner.local_path.hand_over(source, self._peer, route, self.close)
            self._dial = self._half.dial(self._plain_connected, self._refuse)
        else:
            self._open_tunnel(source, route)

    def _dial_plain(self, route: Route) -> None:
        owner = self._owner

        def done(result: socket.socket | OSError) -> None:
            if isinstance(result, OSError):
                self._refuse(dial_refusal(result, route.target))
            else:
                self._plain_connected(result)

        self._dial = dial(
            owner.loop,
            owner.sockets,
            route.target,
            source=self._peer,
            timeout_s=owner.connect_timeout_s,
            random_port=owner.random_port,
            done=done,
        )

    def _open_tunnel(self, source: Workload, route: Route) -> None:
        owner = self._owner
        assert route.authority is not None
        host = route.service.hostname if route.service is not None else None
        trace = owner.rng.randbytes(24)
        head = connect_head(
            route.authority,
            [
                ("baggage", baggage(source)),
                ("forwarded", forwarded(self._peer, host)),
                ("traceparent", traceparent(trace[:16], trace[16:])),
            ],
        )
        key = PoolKey(source.identity, route.accepted, route.target, self._peer.ip)
        owner.pool.open(key, head, self._tunnel_opened, self._refuse)

    def _plain_connected(self, upstream: socket.socket) -> None:
        self._dial = None
        if self._ended:
            reset(upstream)
            return
        self._relay = PlainRelay(self._owner.loop, self._sock, upstream, self._done)
        self._count(self._relay)

    def _tunnel_opened(self, tunnel: Tunnel, headers: Headers) -> None:
        if self._ended:
            tunnel.reset()
            return
        assert self._tracked is not None
        self._tracked.opened = self._tracked.opened._replace(destination_identity=tunnel.link.peer)
        self._relay = TunnelRelay(self._owner.loop, self._sock, tunnel, self._done)
        self._count(self._relay)

    def _count(self, relay: PlainRelay | TunnelRelay) -> None:
        assert self._tracked is not None
        self._tracked.relay = relay
        if self._half is not None:
            self._half.carry(relay)

    def _refuse(self, refusal: Refusal) -> None:
        self._dial = None
        if self._ended:
            return
        reset(self._sock)
        if self._tracked is None:
            self._owner.reporter.refused(Direction.OUTBOUND, self._peer, self._original, refusal.detail)
        self._end(refusal.outcome, refusal.detail)

    def close(self, outcome: Outcome, detail: str) -> None:
        """End it now, whatever it is doing."""
        if self._relay is not None:
            self._relay.abort(outcome, detail)
            return
        if self._dial is not None:
            self._dial.cancel()
        self._refuse(Refusal(outcome, detail))

    def _done(self, relay: PlainRelay | TunnelRelay) -> None:
        self._end(relay.outcome, relay.error)

    def _end(self, outcome: Outcome, detail: str) -> None:
        self._ended = True
        if self._half is not None:
            self._half.finish(outcome, detail)
        if self._live is not None:
            self._owner.registry.remove(self._live)
            self._live = None  # it holds `close`, and so this object
        if self._tracked is not None:
            self._tracked.finish(outcome, detail)
