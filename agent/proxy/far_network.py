"""The way into another network: a tunnel to its gateway, and in that one a connection of its own with the far end.

The outer tunnel comes from the pool, as any other. The connection in it carries one tunnel and is never shared: else
everything would reach the one endpoint that the gateway chose for the first. The far end proves who it is by itself;
the gateway, which both ends take for a peer of the mesh, carries what it cannot read (docs/WIRE.md#double-hbone).
"""

from __future__ import annotations

from typing import Protocol

from agent.model.address import IP
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal, refused_connect
from agent.model.route import Route
from agent.net.tunnel import Tunnel, TunnelClientEvents
from agent.net.tunnel_link import TunnelLink
from agent.proxy.pool import Pool
from agent.proxy.pool_key import Headers, PoolKey, WantsTunnel
from agent.proxy.pool_waiter import Waiter
from agent.proxy.unanswered import no_answer
from agent.wire.hbone import ACCEPTED, ConnectHead


class InnerConnector(Protocol):
    def inside(
        self, source: Identity, accepted: tuple[Identity, ...], tunnel: Tunnel, events: TunnelClientEvents
    ) -> TunnelLink:
        """A link in an answered tunnel, not started. Raises Refusal; the tunnel is reset then."""


class FarNetworks:
    """Asks for tunnels through gateways; one per worker."""

    def __init__(self, pool: Pool, connector: InnerConnector, network: str) -> None:
        self.pool = pool
        self.connector = connector
        self.network = network
        """Ours, which the far end is told."""
        self.links: set[TunnelLink] = set()
        """Connections inside of tunnels."""

    def ask(self, route: Route, source: Identity, client: IP, head: ConnectHead, owner: WantsTunnel) -> Inner:
        """A tunnel to where `route` leads; `head` is the request as both ends are told it. Raises Refusal."""
        if not route.inner_accepted:
            service = route.service.key if route.service is not None else route.authority
            raise Refusal(
                Outcome.UNKNOWN_GATEWAY,
                f"Service {service} names nobody who may serve it in another network: it needs subjectAltNames",
            )
        inner = Inner(self, route, source, head, owner)
        inner.start(client)
        return inner


class Inner:
    """One way there, from the place in line for the outer tunnel to the end of the inner connection."""

    __slots__ = ("_far", "_head", "_is_answered", "_link", "_outer", "_owner", "_route", "_source")

    def __init__(
        self, far: FarNetworks, route: Route, source: Identity, head: ConnectHead, owner: WantsTunnel
    ) -> None:
        self._far = far
        self._route = route
        self._source = source
        self._head = head
        self._owner: WantsTunnel | None = owner
        self._outer: Waiter | None = None
        self._link: TunnelLink | None = None
        self._is_answered = False

    def start(self, client: IP) -> None:
        route = self._route
        key = PoolKey(self._source, route.accepted, route.target, client)
        self._outer = self._far.pool.open(key, self._head, self)

    def cancel(self) -> None:
        """Nobody is called back."""
        self._far.pool.unanswered.remove(self)
        self._owner = None
        if self._outer is not None:
            outer, self._outer = self._outer, None
            outer.cancel()
        elif self._link is not None:
            self._link.abort(Outcome.RESET, "nobody waits for this connection")

    # -- the pool's answers

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        self._outer = None
        try:
            link = self._far.connector.inside(self._source, self._route.inner_accepted, tunnel, self)
        except Refusal as refusal:
            self.refused(refusal)
            return
        self._link = link
        self._far.links.add(link)
        told = (*self._head.headers, ("x-forwarded-network", self._far.network))
        link.open(self._head._replace(headers=told), self)
        self._far.pool.unanswered.add(self)
        link.start()

    def refused(self, refusal: Refusal) -> None:
        self._outer = None
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.refused(refusal)

    # -- the inner connection

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        """The handshake has already checked the far end against the accepted identities."""

    def available(self, link: TunnelLink) -> None:
        if self._is_answered and not link.open_streams:
            link.go_away()

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self._far.pool.unanswered.remove(self)
        self._link = None
        self._far.links.discard(link)

    # -- the inner tunnel's answers

    def unanswered(self, waited_s: float) -> None:
        owner = self._owner
        self.cancel()
        if owner is not None:
            owner.refused(no_answer(f"{self._route.authority} behind gateway {self._route.target}", waited_s))

    def answered(self, tunnel: Tunnel, status: int, headers: Headers) -> None:
        self._far.pool.unanswered.remove(self)
        owner, self._owner = self._owner, None
        self._is_answered = True
        if owner is None:
            return
        if status == ACCEPTED:
            owner.opened(tunnel, headers)
            return
        tunnel.reset()
        owner.refused(refused_connect(status, f"{self._route.authority} behind gateway {self._route.target}"))

    def gone(self, tunnel: Tunnel) -> None:
        self._far.pool.unanswered.remove(self)
        failure = tunnel.failure or Refusal(Outcome.RESET, "the connection through the gateway ended")
        detail = f"{failure.detail} (of {self._route.authority} behind gateway {self._route.target})"
        self.refused(Refusal(failure.outcome, detail))
