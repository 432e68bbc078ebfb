"""Inbound HBONE (15008): mTLS as the destination workload, then one delivery for each CONNECT.

The address a connection arrived at names the workload, and so the certificate, before TLS. Each CONNECT is
checked (docs/WIRE.md#inbound), registered, judged by policy with the peer's proven identity, dialled, and
only then answered with 200; refusals answer with the status of their outcome.
"""

from __future__ import annotations

import socket

from agent.identity.handshake import HandshakeError, Session
from agent.model.address import SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.model.workload import Workload
from agent.net.dial import Dial
from agent.net.relay import TunnelRelay
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.proxy.delivery import Delivery, reset
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live
from agent.proxy.report import Reporter, Tracked, claims
from agent.proxy.secrets import Secrets
from agent.state.connect_target import guess_service, resolve_inbound
from agent.state.resolve import Options
from agent.telemetry.record import Opened
from agent.wire.baggage import baggage, forwarded_host, parse_baggage
from agent.wire.hbone import ConnectHead

BROKEN_PROTOCOL = frozenset({Outcome.TLS_FAILED, Outcome.H2_FAILED})


class Inbound:
    """Accepts HBONE connections; one per worker."""

    def __init__(
        self,
        delivery: Delivery,
        pods: LocalPods,
        secrets: Secrets,
        reporter: Reporter,
        options: Options,
        *,
        handshake_timeout_s: float,
        links_limit: int,
    ) -> None:
        self._links_limit = links_limit
        self.delivery = delivery
        self.reporter = reporter
        self.options = options
        self._pods = pods
        self._secrets = secrets
        self._handshake_timeout_s = handshake_timeout_s
        self.links: set[InboundLink] = set()

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """A connection to a pod's port 15008."""
        try:
            if len(self.links) >= self._links_limit:
                raise Refusal(Outcome.OVERLOADED)
            workload = self.workload(local)
            session = Session.server(self._secrets.get(workload.identity))
        except (Refusal, HandshakeError) as refusal:
            self.reporter.refused(Direction.INBOUND, peer, local, str(refusal))
            reset(sock)
            return
        events = InboundLink(self, peer, local, workload.identity)
        self.links.add(events)
        events.link = TunnelLink(
            self.delivery.loop, sock, session, events, handshake_timeout_s=self._handshake_timeout_s
        )

    def workload(self, local: SocketAddress) -> Workload:
        """The workload at the address reached, as of now. Raises Refusal."""
        return self._pods.workload(self.delivery.store.current, local.ip, is_source=False)

    def go_away(self) -> None:
        for events in tuple(self.links):
            if events.link is not None:
                events.link.go_away()

    def close_pod(self, addresses: frozenset[object]) -> None:
        for events in tuple(self.links):
            if events.local.ip in addresses and events.link is not None:
                events.link.abort(Outcome.POD_REMOVED, "the pod left the mesh")


class InboundLink:
    """One HBONE connection from a peer: what its events mean."""

    __slots__ = ("identity", "inbound", "link", "local", "peer")

    def __init__(
        self, inbound: Inbound, peer: SocketAddress, local: SocketAddress, identity: Identity
    ) -> None:
        self.inbound = inbound
        self.identity = identity
        self.peer = peer
        self.local = local
        self.link: TunnelLink | None = None

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        """The handshake has checked chain and trust domain; policy is asked per CONNECT."""

    def requested(self, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        InboundTunnel(self, link, tunnel, head).start()

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.inbound.links.discard(self)
        # A member that breaks the protocol is worth a line too; one that merely leaves is not.
        if outcome in BROKEN_PROTOCOL or (link.secured is None and outcome is not Outcome.OK):
            self.inbound.reporter.refused(Direction.INBOUND, self.peer, self.local, detail)


class InboundTunnel:
    """One CONNECT: from its head to the end of its relay."""

    __slots__ = (
        "_dial",
        "_head",
        "_inbound",
        "_link",
        "_live",
        "_parent",
        "_relay",
        "_tracked",
        "_tunnel",
        "_workload",
    )

    def __init__(self, parent: InboundLink, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        self._parent = parent
        self._inbound = parent.inbound
        self._link = link
        self._tunnel = tunnel
        self._head = head
        self._dial: Dial | None = None
        self._relay: TunnelRelay | None = None
        self._live: Live | None = None
        self._tracked: Tracked | None = None
        self._workload: Workload | None = None

    def start(self) -> None:
        try:
            self._admit()
        except Refusal as refusal:
            self._refuse(refusal)

    def _admit(self) -> None:
        inbound, peer = self._inbound, self._parent.peer
        workload = self._workload = inbound.workload(self._parent.local)
        target = resolve_inbound(
            inbound.delivery.store.current,
            workload,
            self._parent.local.ip,
            self._head.authority,
            inbound.options,
        )
        if target.proxy_header:
            raise Refusal(
                Outcome.UNSUPPORTED, "application tunnels with PROXY protocol are not supported yet"
            )
        self._track(workload, target.destination)
        connection = Connection(peer, target.destination, self._link.peer, inbound.options.network)
        self._live = Live(
            Direction.INBOUND,
            self._parent.local.ip,
            peer,
            target.destination,
            target.destination,
            "HBONE",
            self.close,
        )
        self._live.connection = connection
        inbound.delivery.admit(self._live, workload)
        self._tunnel.on_gone = self._gone
        self._dial = inbound.delivery.dial(
            connection, keep_port=False, connected=self._connected, failed=self._refuse
        )

    def _track(self, workload: Workload, destination: SocketAddress) -> None:
        snapshot = self._inbound.delivery.store.current
        host = forwarded_host(self._head.header("forwarded"))
        source = snapshot.workload_at(self._inbound.options.network, self._parent.peer.ip)
        self._tracked = self._inbound.reporter.opened(
            Opened(
                direction=Direction.INBOUND,
                source_address=self._parent.peer,
                destination_address=self._parent.local,
                source=source,
                destination=workload,
                source_identity=self._link.peer,
                destination_identity=workload.identity,
                is_mutual_tls=True,
                authority=self._head.authority,
                service=guess_service(snapshot, workload, destination.port, host),
                # What the mesh knows wins, so the claims are not even read then.
                source_claims=None if source else claims(parse_baggage(self._head.values("baggage"))),
            )
        )

    def _connected(self, sock: socket.socket) -> None:
        self._dial = None
        self._tunnel.on_gone = None
        assert self._workload is not None and self._tracked is not None
        self._tunnel.accept([("baggage", baggage(self._workload))])
        self._relay = TunnelRelay(self._inbound.delivery.loop, sock, self._tunnel, self._done)
        self._tracked.relay = self._relay

    def _refuse(self, refusal: Refusal) -> None:
        self._dial = None
        self._tunnel.on_gone = None
        self._tunnel.refuse(refusal.outcome.status)
        if self._tracked is None:
            self._inbound.reporter.refused(
                Direction.INBOUND,
                self._parent.peer,
                self._parent.local,
                f"{refusal.detail} ({self._head.authority})",
            )
        self._end(refusal.outcome, refusal.detail)

    def _gone(self, tunnel: Tunnel) -> None:
        """The peer gave up before the application answered."""
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        self._end(Outcome.RESET, "the client gave up before the application answered")

    def close(self, outcome: Outcome, detail: str) -> None:
        """End it now, whatever it is doing: policy changed, the pod left, or the agent stops."""
        if self._relay is not None:
            self._relay.abort(outcome, detail)
            return
        if self._dial is not None:
            self._dial.cancel()
        self._refuse(Refusal(outcome, detail))

    def _done(self, relay: TunnelRelay) -> None:
        self._end(relay.outcome, relay.error)

    def _end(self, outcome: Outcome, detail: str) -> None:
        if self._live is not None:
            self._inbound.delivery.registry.remove(self._live)
            self._live = None  # it holds `close`, and so this object
        if self._tracked is not None:
            self._tracked.finish(outcome, detail)
