"""Inbound HBONE (15008): mTLS as the destination workload, then one delivery for each CONNECT.

The address a connection arrived at names the workload, and so the certificate, before TLS. Each CONNECT is
checked (docs/WIRE.md#inbound), registered, judged by policy with the peer's proven identity, dialled, and
only then answered with 200; refusals answer with the status of their outcome.
"""

from __future__ import annotations

import socket
from functools import partial

from agent.identity.faults import Fault
from agent.identity.handshake import HandshakeError, Session
from agent.identity.revocations import Revocations
from agent.model.address import IP, SocketAddress
from agent.model.connection import Connection, Direction
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal, Unknown
from agent.model.workload import TunnelProtocol, Workload
from agent.net.byte_stream import SocketStream
from agent.net.farewell import close
from agent.net.relay import TunnelRelay
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.proxy.delivery import Delivery
from agent.proxy.handshakes import Handshakes
from agent.proxy.life import GAVE_UP, Attempt, Life
from agent.proxy.lobby import GIVEN_UP, Caller, Lobby
from agent.proxy.pods import LocalPods
from agent.proxy.registry import Live
from agent.proxy.report import Reporter, claims
from agent.proxy.secrets import Secrets
from agent.proxy.seeker import Seeker
from agent.proxy.tallies import End, Tallies
from agent.state.connect_target import guess_service, resolve_inbound
from agent.state.resolve import Options
from agent.telemetry.record import Opened
from agent.wire.baggage import baggage, forwarded_host, parse_baggage
from agent.wire.h2_events import Limits
from agent.wire.hbone import ConnectHead
from agent.wire.proxy_protocol import header

SAY_S = 0.5
BROKEN_PROTOCOL = frozenset({Outcome.TLS_FAILED, Outcome.H2_FAILED})


class Inbound:
    """Accepts HBONE connections; one per worker."""

    def __init__(
        self,
        delivery: Delivery,
        pods: LocalPods,
        secrets: Secrets,
        revocations: Revocations | None,
        reporter: Reporter,
        tallies: Tallies,
        options: Options,
        limits: Limits,
        seeker: Seeker,
        *,
        handshake_timeout_s: float,
        links_limit: int,
    ) -> None:
        self._links_limit = links_limit
        self.delivery = delivery
        self.reporter = reporter
        self.tallies = tallies
        self.options = options
        self.limits = limits
        self.seeker = seeker
        self._pods = pods
        self._secrets = secrets
        self._revocations = revocations
        self.links: set[InboundLink] = set()
        self.handshakes = Handshakes(delivery.loop, links_limit)
        self.lobby = Lobby(delivery.loop, self.handshakes, self, handshake_timeout_s)
        self.is_leaving = False

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """A connection to a pod's port 15008. Whose it is is looked up once it has said something of sense."""
        self.resume(sock, peer, local, b"", 0.0)

    def resume(
        self, sock: socket.socket, peer: SocketAddress, local: SocketAddress, said: bytes, been_s: float
    ) -> None:
        """The same, of one that has said so much and been heard for so long, in another process."""
        if self.held >= self._links_limit and not self.handshakes.make_room():
            self._refuse(sock, peer, local, Refusal(Outcome.OVERLOADED))
        elif said or been_s:
            self.lobby.resume(sock, peer, local, said, been_s)
        else:
            self.lobby.enter(sock, peer, local)

    @property
    def held(self) -> int:
        """Connections, with those that have not said who they are."""
        return len(self.links) + len(self.lobby)

    # -- answers of the lobby

    def called(self, caller: Caller, left_s: float) -> None:
        sock, peer, local = caller.sock, caller.peer, caller.local
        try:
            workload = self.workload(local)
            session = Session.server(self._secrets.get(workload.identity), self._revocations)
        except (Refusal, HandshakeError) as refusal:
            self._refuse(sock, peer, local, refusal)
            return
        entry = InboundLink(self, peer, local, workload.identity)
        entry.shake_hands(sock, session, left_s)
        self.links.add(entry)
        self.handshakes.shaking.begin(entry, peer.ip)
        entry.link.start(caller.said)

    def turned_away(self, caller: Caller, fault: Fault, detail: str) -> None:
        self.tallies.faults[End.SERVER, fault] += 1
        if fault not in GIVEN_UP:
            self.count_failure(caller.peer, caller.local, detail)
        outcome = Outcome.OVERLOADED if fault in GIVEN_UP else Outcome.TLS_FAILED
        self.reporter.refused(Direction.INBOUND, caller.peer, caller.local, outcome, detail)

    def count_failure(self, peer: SocketAddress, local: SocketAddress, detail: str) -> None:
        """A handshake with a pod of ours came to nothing."""
        there = self.delivery.store.current.workload_at(self.options.network, peer.ip)
        is_member = there is not None and there.protocol is TunnelProtocol.HBONE
        self.tallies.of(local.ip).count_failed_handshake(is_member, detail)

    def _refuse(
        self, sock: socket.socket, peer: SocketAddress, local: SocketAddress, refusal: Refusal
    ) -> None:
        self.reporter.refused(Direction.INBOUND, peer, local, refusal.outcome, str(refusal))
        close(sock, reset=True)

    def workload(self, local: SocketAddress) -> Workload:
        """The workload at the address reached, as of now. Raises Refusal."""
        return self._pods.workload(self.delivery.store.current, local.ip, is_source=False)

    def go_away(self, why: str = "", addresses: frozenset[IP] | None = None) -> None:
        """Have every connection, or those to these addresses, finish its tunnels and close; `why`: they are reset.

        Whoever is still in the lobby hears it when it has had its say.
        """
        if addresses is None:
            self.is_leaving = True
        for entry in tuple(self.links):
            if addresses is None or entry.local.ip in addresses:
                entry.link.go_away(why)

    def close_pod(self, addresses: frozenset[IP]) -> None:
        self.lobby.close_pod(addresses)
        for entry in tuple(self.links):
            if entry.local.ip in addresses:
                entry.link.abort(Outcome.POD_REMOVED, "the pod left the mesh")


class InboundLink:
    """One HBONE connection from a peer: what its events mean."""

    __slots__ = ("identity", "inbound", "link", "local", "peer")
    link: TunnelLink

    def __init__(
        self, inbound: Inbound, peer: SocketAddress, local: SocketAddress, identity: Identity
    ) -> None:
        self.inbound = inbound
        self.identity = identity
        self.peer = peer
        self.local = local

    def shake_hands(self, sock: socket.socket, session: Session, handshake_timeout_s: float) -> None:
        """Make its link, not started."""
        inbound, peer = self.inbound, self.peer
        self.link = TunnelLink.fresh(
            inbound.delivery.loop,
            SocketStream(inbound.delivery.loop, sock),
            session,
            self,
            limits=inbound.limits,
            handshake_timeout_s=handshake_timeout_s,
            ask_turn=partial(inbound.handshakes.ask_next, self, peer.ip),
        )

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        """The handshake has checked chain and trust domain; policy is asked per CONNECT."""
        self.inbound.handshakes.prove(self)
        if self.inbound.is_leaving:
            # A peer puts nothing on a connection that has said so, and this one was made for something.
            self.inbound.delivery.loop.later(SAY_S, link.go_away)
        self.inbound.tallies.of(self.local.ip).handshakes_done += 1

    def take_up(self) -> None:
        """It was authenticated in another process: it is one of this worker's from now on."""
        self.inbound.links.add(self)
        if self.inbound.is_leaving:
            self.link.go_away()

    def requested(self, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        InboundTunnel(self, tunnel, head).start()

    def give_up(self, fault: Fault, detail: str) -> None:
        self.inbound.tallies.faults[End.SERVER, fault] += 1
        self.link.abort(Outcome.OVERLOADED, detail)

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.inbound.links.discard(self)
        if link.secured is None:
            self.inbound.handshakes.failed(self, link.tls.parted)
        if link.secured is None and link.tls.fault is not None:
            self.inbound.tallies.faults[End.SERVER, link.tls.fault] += 1
        if outcome is Outcome.TLS_FAILED:
            self.inbound.count_failure(self.peer, self.local, detail)
        # A member that breaks the protocol is worth a line too; one that merely leaves is not.
        if outcome in BROKEN_PROTOCOL or (link.secured is None and outcome is not Outcome.OK):
            self.inbound.reporter.refused(Direction.INBOUND, self.peer, self.local, outcome, detail)


class InboundTunnel(Life):
    """One CONNECT."""

    __slots__ = ("_head", "_inbound", "_tunnel", "_workload", "preface")
    direction = Direction.INBOUND

    def __init__(self, parent: InboundLink, tunnel: Tunnel, head: ConnectHead) -> None:
        inbound = parent.inbound
        delivery = inbound.delivery
        super().__init__(delivery.loop, delivery.registry, inbound.reporter, parent.peer, parent.local)
        self._inbound = inbound
        self._tunnel = tunnel
        self._head = head
        self._workload: Workload | None = None
        self.preface = b""
        """What the application wants to be told before the first byte."""

    def _begin(self) -> Attempt:
        inbound, delivery = self._inbound, self._inbound.delivery
        workload = self._workload = inbound.workload(self.local)
        snapshot, authority = delivery.store.current, self._head.authority
        try:
            target = resolve_inbound(snapshot, workload, self.local.ip, authority, inbound.options)
        except Unknown as unknown:
            return self._seek(inbound.seeker, unknown)
        if target.proxy_target is not None:
            self.preface = header(self.peer, target.proxy_target, self._tunnel.link.peer)
        destination = target.destination
        live = Live(self.direction, self.local.ip, self.peer, destination, destination, "HBONE", self)
        live.connection = Connection(self.peer, destination, self._tunnel.link.peer, inbound.options.network)
        host = forwarded_host(self._head.header("forwarded"))
        opened = self._opened(workload, destination, host)
        if opened.service is not None and opened.service.hostname == host:
            live.service = host
        self._record(live, opened)
        delivery.admit(live, workload)
        return delivery.dial(live.connection, self, keep_port=False)

    def _opened(self, workload: Workload, destination: SocketAddress, host: str | None) -> Opened:
        snapshot = self._inbound.delivery.store.current
        network = self._inbound.options.network
        from_network = self._head.header("x-forwarded-network")
        # Behind a gateway of another network the address is the gateway's, or nobody's here.
        is_far = from_network is not None and from_network.lower() != network.lower()
        source = None if is_far else snapshot.workload_at(network, self.peer.ip)
        return Opened(
            direction=self.direction,
            source_address=self.peer,
            destination_address=self.local,
            source=source,
            destination=workload,
            source_identity=self._tunnel.link.peer,
            destination_identity=workload.identity,
            is_mutual_tls=True,
            authority=self._head.authority,
            service=guess_service(snapshot, workload, destination.port, host),
            # What the mesh knows wins, so the claims are not even read then.
            source_claims=None if source else claims(parse_baggage(self._head.values("baggage"))),
        )

    def _watch_client(self) -> None:
        self._tunnel.owner = self

    def go_on(self, ends: tuple[Outcome, str] | None) -> None:
        if self._live is not None:
            workloads = self._inbound.delivery.store.current.workloads
            self._workload = workloads.get(self._live.destination_uid)
        super().go_on(ends)

    def gone(self, tunnel: Tunnel) -> None:
        """The tunnel's answer: the peer took it back, or its connection ended."""
        failure = tunnel.failure
        if failure is None or failure.outcome is Outcome.RESET:
            failure = Refusal(Outcome.RESET, GAVE_UP)
        self.refused(failure)

    def connected(self, sock: socket.socket) -> None:
        if self.preface and not _is_sent(sock, self.preface):
            self._attempt = None
            self._loop.forget(sock.fileno())
            close(sock, reset=True)
            refusal = Refusal(Outcome.CONNECT_FAILED, "the application left before it had its PROXY header")
            self.refused(refusal)
            return
        super().connected(sock)

    def _join(self, sock: socket.socket) -> TunnelRelay:
        assert self._workload is not None
        self._tunnel.accept([("baggage", baggage(self._workload))])
        return TunnelRelay(self._loop, sock, self._tunnel, self)

    def _turn_away(self, outcome: Outcome) -> None:
        self._tunnel.owner = None
        self._tunnel.refuse(outcome.status)

    def _in_words(self, refusal: Refusal) -> str:
        return f"{refusal.detail} ({self._head.authority})"


def _is_sent(sock: socket.socket, data: bytes) -> bool:
    """A connection that has just been made takes so little at once."""
    try:
        return sock.send(data) == len(data)
    except OSError:
        return False
