"""The pool of outbound HBONE connections: decides which one carries a tunnel, and when to dial another.

Connections are never shared between two source pods, even of one identity: the peer judges the source address
(docs/WIRE.md#waypoints). A burst to one destination waits for one handshake; how many tunnels a connection
takes is what the peer's SETTINGS say now, under a cap of our own. One whose peer's window is held by tunnels that
are not read takes none until it recovers. Failures reach exactly those who wait; a connection under way that nobody
waits for any more is given up.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass, field

from agent.model.address import IP, SocketAddress
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.dial import Dial
from agent.net.loop import Loop, Timer
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.proxy.life import dial_refusal
from agent.proxy.pool_key import Connector, Headers, PoolKey, WantsTunnel
from agent.proxy.tallies import End, Tallies
from agent.proxy.unanswered import Unanswered, no_answer
from agent.wire.hbone import ACCEPTED, ConnectHead

LONG_WAIT_S = 1.0
CROWDED_LINKS = 64
"""With so many crowded connections to one peer no more are dialled: a tunnel goes where most is left."""
TRIES = 3
"""How many connections may end under one who waits, unanswered: a peer that restarts takes two away at most."""


class Waiter:
    """A place in line for a tunnel, until its owner is answered: first in the group, then on a connection."""

    __slots__ = ("_group", "_is_reused", "_owner", "_pool", "_since_s", "_tries", "_tunnel", "head")

    def __init__(self, pool: Pool, group: Group, head: ConnectHead, owner: WantsTunnel) -> None:
        self.head = head
        self._pool = pool
        self._group = group
        self._owner: WantsTunnel | None = owner
        self._tunnel: Tunnel | None = None
        self._is_reused = False
        self._tries = TRIES
        self._since_s = pool.now()

    def start(self, link: TunnelLink, *, reused: bool) -> None:
        """Ask for the tunnel on this connection; `reused`: it has served others before."""
        self._is_reused = reused
        self._tunnel = link.open(self.head, self)
        self._pool.unanswered.add(self)

    def cancel(self) -> None:
        """Leave the line; the owner is not called."""
        self._pool.unanswered.remove(self)
        if self._owner is not None:
            self._owner = None
            waited_s = self._pool.now() - self._since_s
            if waited_s >= LONG_WAIT_S:
                # Whoever leaves after so long was not served; an application that looks in and leaves is no failure.
                self._pool.count_failure(
                    self._group, f"no answer of {self._group.key.target} in {waited_s:.0f} s"
                )
            if self._tunnel is not None:
                self._tunnel.reset()
            self._pool.leave(self._group, self)

    def refuse(self, refusal: Refusal) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.refused(refusal)

    def unanswered(self, waited_s: float) -> None:
        """The peer is there and does not answer."""
        owner = self._owner
        self.cancel()
        if owner is not None:
            owner.refused(no_answer(self._group.key.target, waited_s))

    def answered(self, tunnel: Tunnel, status: int, headers: Headers) -> None:
        """The tunnel's answer."""
        self._pool.unanswered.remove(self)
        self._pool.count_answer(self._group)
        if status == ACCEPTED:
            owner, self._owner = self._owner, None
            assert owner is not None, "who leaves the line resets the tunnel"
            owner.opened(tunnel, headers)
            return
        tunnel.reset()  # a peer may refuse and leave the stream open
        target = self._group.key.target
        self.refuse(Refusal(Outcome.UPSTREAM_REFUSED, f"http status: {status} from {target}", status))

    def gone(self, tunnel: Tunnel) -> None:
        """The tunnel's other answer."""
        self._pool.unanswered.remove(self)
        self._tunnel = None
        # The connection ended before the peer answered: nothing was relayed, so another may try. A new one that ends
        # says more of the peer than of this request, unless that never came to be looked at.
        if (self._is_reused or tunnel.is_unseen) and self.may_try_again():
            self._pool.enqueue(self._group, self)
        else:
            self.refuse(tunnel.failure or Refusal(Outcome.RESET, "the HBONE connection ended"))

    def may_try_again(self) -> bool:
        """Counts the end of a connection; whether this one still waits for another."""
        self._tries -= 1
        return self._tries > 0


class PooledLink:
    """One connection of the pool, from its dial to its end: owns the dial, hears the link."""

    __slots__ = ("dial", "group", "idle_since_s", "idle_timer", "is_given_up", "is_proven", "link", "pool")

    def __init__(self, pool: Pool, group: Group) -> None:
        self.pool = pool
        self.group = group
        self.dial: Dial | None = None
        self.link: TunnelLink | None = None
        self.is_proven = self.is_given_up = False
        self.idle_since_s = 0.0
        self.idle_timer: Timer | None = None

    def connected(self, sock: socket.socket) -> None:
        self.dial = None
        self.pool.link_dialled(self, sock)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self.dial = None
        self.pool.link_failed(self, dial_refusal(error, target, is_hbone=True))

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        """The handshake has already checked the peer against the accepted identities."""

    def available(self, link: TunnelLink) -> None:
        self.pool.became_available(self, link)

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.pool.link_closed(self, link, Refusal(outcome, detail))

    def was_idle(self) -> None:
        """The idle timer's answer."""
        self.idle_timer = None
        self.pool.retire_if_idle(self)

    def abort(self, outcome: Outcome, detail: str) -> None:
        """End it now, whatever it is doing."""
        self.is_given_up = True
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
            self.pool.link_failed(self, Refusal(outcome, detail))
        elif self.link is not None:
            self.link.abort(outcome, detail)


@dataclass(slots=True)
class Group:
    """The connections and the waiters of one key. Those connecting are not proven yet: dial or handshake."""

    key: PoolKey
    links: list[TunnelLink] = field(default_factory=list)
    connecting: list[PooledLink] = field(default_factory=list)
    waiting: deque[Waiter] = field(default_factory=deque)


def links_to_dial(waiting: int, connecting: int, per_link: int) -> int:
    """How many more connections a group needs so that everyone who waits gets a tunnel; negative: too many."""
    return -(-waiting // max(per_link, 1)) - connecting


class Pool:
    """One per worker. `streams_limit` caps the tunnels of a connection; `idle_s` closes unused ones.

    A CONNECT may stay without an answer for `answer_s`.
    """

    def __init__(
        self,
        loop: Loop,
        connector: Connector,
        tallies: Tallies,
        *,
        streams_limit: int,
        idle_s: float,
        answer_s: float,
    ) -> None:
        self.unanswered = Unanswered(loop, answer_s)
        self._loop = loop
        self._connector = connector
        self._tallies = tallies
        self._streams_limit = streams_limit
        self._idle_s = idle_s
        self._groups: dict[PoolKey, Group] = {}

    def open(self, key: PoolKey, head: ConnectHead, owner: WantsTunnel) -> Waiter:
        """Ask for a tunnel; `owner` is never called from inside this call."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        waiter = Waiter(self, group, head, owner)
        self.enqueue(group, waiter)
        return waiter

    @property
    def links(self) -> list[tuple[Identity, TunnelLink]]:
        """Every connection with the identity it is ours by."""
        return [(group.key.source, link) for group in self._groups.values() for link in group.links]

    def close_source(self, addresses: frozenset[IP]) -> None:
        """Drop every connection made or being made in the name of these pod addresses, at once."""
        gone = Refusal(Outcome.POD_REMOVED, "the pod left the mesh")
        for group in [g for g in self._groups.values() if g.key.client_ip in addresses]:
            # Links first: those who waited for an answer on one may try another, and fail with the rest.
            for link in tuple(group.links):
                link.abort(gone.outcome, gone.detail)
            self._fail_waiters(group, gone)
            for pooled in tuple(group.connecting):
                pooled.abort(gone.outcome, gone.detail)

    def go_away(self, why: str = "", addresses: frozenset[IP] | None = None) -> None:
        """Have every connection, or those in these names, finish its tunnels and close; `why`: they are reset."""
        for group in self._groups.values():
            if addresses is None or group.key.client_ip in addresses:
                for link in group.links:
                    link.go_away(why)

    def now(self) -> float:
        """Seconds of the loop's clock."""
        return self._loop.now()

    # -- what became of it, for the proofs

    def count_answer(self, group: Group) -> None:
        """The peer answered a CONNECT, whatever it said: the way to it works."""
        self._tallies.of(group.key.client_ip).tunnels_made += 1

    def count_failure(self, group: Group, detail: str) -> None:
        tally = self._tallies.of(group.key.client_ip)
        tally.tunnels_failed += 1
        tally.last_error = detail

    # -- waiters

    def enqueue(self, group: Group, waiter: Waiter) -> None:
        if not group.waiting:
            link = self._free_link(group)
            if link is not None:
                waiter.start(link, reused=True)
                return
        group.waiting.append(waiter)
        self._grow(group)

    def _free_link(self, group: Group) -> TunnelLink | None:
        """Where a tunnel may be opened at once. A crowded connection takes none while another can be had."""
        crowded = []
        for link in group.links:
            if link.free_streams > 0:
                if not link.is_crowded:
                    return link
                crowded.append(link)
        if len(crowded) < CROWDED_LINKS:
            return None
        return max(crowded, key=lambda link: link.standstill.window_left_bytes)

    def leave(self, group: Group, waiter: Waiter) -> None:
        """Somebody waits no more, and so perhaps nobody does for a connection under way."""
        if waiter in group.waiting:
            group.waiting.remove(waiter)
        surplus = -self._missing(group)
        for pooled in group.connecting[::-1]:
            if surplus <= 0:
                return
            if pooled.link is None or not pooled.link.open_streams:
                surplus -= 1
                pooled.abort(Outcome.RESET, "nobody waits for this connection")

    def _fail_tired(self, group: Group, refusal: Refusal) -> None:
        """A connection went away before it took anybody. A queue of endless tries would be a storm."""
        waiting, group.waiting = group.waiting, deque()
        for waiter in waiting:
            if waiter.may_try_again():
                group.waiting.append(waiter)
            else:
                waiter.refuse(refusal)

    def _fail_waiters(self, group: Group, refusal: Refusal) -> None:
        while group.waiting:
            group.waiting.popleft().refuse(refusal)

    # -- connections

    def _missing(self, group: Group) -> int:
        return links_to_dial(len(group.waiting), len(group.connecting), self._per_link(group))

    def _per_link(self, group: Group) -> int:
        """Tunnels a connection to this peer takes: as its live settings say, else our own cap."""
        usable = [link for link in group.links if link.is_usable and link.secured is not None]
        known = [link.open_streams + link.free_streams for link in usable]
        return min([self._streams_limit, *(n for n in known if n > 0)])

    def _grow(self, group: Group) -> None:
        for _ in range(self._missing(group)):
            pooled = PooledLink(self, group)
            group.connecting.append(pooled)
            pooled.dial = self._connector.dial(group.key, pooled)

    def link_dialled(self, pooled: PooledLink, sock: socket.socket) -> None:
        group = pooled.group
        try:
            link = self._connector.link(group.key, sock, pooled)
        except Refusal as refusal:
            self.link_failed(pooled, refusal)
            return
        pooled.link = link
        group.links.append(link)
        link.start()

    def link_failed(self, pooled: PooledLink, refusal: Refusal) -> None:
        """It ended before it was proven."""
        group = pooled.group
        if not pooled.is_given_up:
            self.count_failure(group, refusal.detail)
        group.connecting.remove(pooled)
        # Everyone who waits fails with the reason at once: a queue of retries would be a storm.
        if not group.connecting:
            self._crowd_in(group)
            self._fail_waiters(group, refusal)
        self._forget_if_empty(group)

    def _crowd_in(self, group: Group) -> None:
        """No further connection can be had: a place on a crowded one is better than none."""
        for link in group.links:
            while group.waiting and link.free_streams > 0:
                group.waiting.popleft().start(link, reused=True)

    def link_closed(self, pooled: PooledLink, link: TunnelLink, refusal: Refusal) -> None:
        group = pooled.group
        if pooled.idle_timer is not None:
            pooled.idle_timer.cancel()
        if link in group.links:
            group.links.remove(link)
        if pooled.is_proven:
            self._forget_if_empty(group)
            return
        if link.tls.fault is not None:
            self._tallies.faults[End.CLIENT, link.tls.fault] += 1
        self.link_failed(pooled, refusal)

    def became_available(self, pooled: PooledLink, link: TunnelLink) -> None:
        """Settings arrived or tunnels ended: serve who waits, or arm the idle timer."""
        group = pooled.group
        is_fresh = not pooled.is_proven
        if is_fresh:
            pooled.is_proven = True
            group.connecting.remove(pooled)
        while group.waiting and link.is_usable and link.free_streams > 0 and not link.is_crowded:
            group.waiting.popleft().start(link, reused=False)
        if is_fresh and not link.is_usable:
            self._fail_tired(
                group,
                Refusal(Outcome.UPSTREAM_REFUSED, f"{group.key.target} ends each new connection at once"),
            )
        elif group.waiting and link.is_usable and link.open_streams == 0 and link.free_streams == 0:
            self._fail_waiters(
                group, Refusal(Outcome.UPSTREAM_REFUSED, f"{group.key.target} allows no tunnels")
            )
        if group.waiting:
            self._grow(group)
        self._watch_idle(pooled, link)

    def _watch_idle(self, pooled: PooledLink, link: TunnelLink) -> None:
        if link.open_streams == 0:
            pooled.idle_since_s = self._loop.now()
            if pooled.idle_timer is None:
                pooled.idle_timer = self._loop.later(self._idle_s, pooled.was_idle)

    def retire_if_idle(self, pooled: PooledLink) -> None:
        link = pooled.link
        if link is None or link.open_streams:
            return
        left_s = pooled.idle_since_s + self._idle_s - self._loop.now()
        if left_s <= 0:
            link.go_away()
        else:
            pooled.idle_timer = self._loop.later(left_s, pooled.was_idle)

    def _forget_if_empty(self, group: Group) -> None:
        if not group.links and not group.waiting and not group.connecting:
            self._groups.pop(group.key, None)
