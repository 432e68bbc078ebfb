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

from agent.model.address import IP
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop
from agent.net.tunnel_link import TunnelLink
from agent.proxy.departures import Departure, Departures
from agent.proxy.pool_key import Connector, PoolKey, WantsTunnel
from agent.proxy.pool_waiter import Waiter
from agent.proxy.pooled_link import Group, PooledLink
from agent.proxy.tallies import End, Tallies
from agent.proxy.unanswered import Unanswered
from agent.wire.hbone import ConnectHead

CROWDED_LINKS = 64
"""With so many crowded connections to one peer no more are dialled: a tunnel goes where most is left."""


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
        self._departures = Departures(loop, connector)
        self._tallies = tallies
        self._streams_limit = streams_limit
        self._idle_s = idle_s
        self._groups: dict[PoolKey, Group] = {}

    def open(self, key: PoolKey, head: ConnectHead, owner: WantsTunnel) -> Waiter:
        """Ask for a tunnel; `owner` is never called from inside this call."""
        group = self._group(key)
        waiter = Waiter(self, group, head, owner)
        self.enqueue(group, waiter)
        return waiter

    def _group(self, key: PoolKey) -> Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        return group

    @property
    def links(self) -> list[tuple[PoolKey, TunnelLink]]:
        """Every connection with whose it is, and to whom."""
        return [(group.key, link) for group in self._groups.values() for link in group.links]

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

    # -- from one process to another

    @property
    def proven(self) -> list[PooledLink]:
        """Those that have been of use, or could be."""
        return [pooled for group in self._groups.values() for pooled in group.proven]

    def hand_on(self, pooled: PooledLink) -> float:
        """Its connection goes on elsewhere: nothing of it is here any more. How long it has not been used, in s."""
        group, link = pooled.group, pooled.link
        assert link is not None, "it is proven"
        if pooled.idle_timer is not None:
            pooled.idle_timer.cancel()
            pooled.idle_timer = None
        group.links.remove(link)
        group.proven.remove(pooled)
        self._forget_if_empty(group)
        return 0.0 if link.open_streams else self._loop.now() - pooled.idle_since_s

    def take_up(self, pooled: PooledLink, idle_s: float) -> None:
        """One that was proven elsewhere, and has not been used for so long: it carries what is asked for here."""
        group, link = pooled.group, pooled.link
        assert link is not None, "it was made before"
        # What it was made for may have ended meanwhile, and its group with it.
        group = pooled.group = self._groups.setdefault(group.key, group)
        pooled.is_proven = True
        group.links.append(link)
        group.proven.append(pooled)
        if not link.open_streams:
            # Which `_watch_idle` goes by: as it starts, a link that carries nothing says that it is available.
            pooled.idle_before_s = idle_s

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

    def _fail_those_before(self, group: Group, began_s: float, refusal: Refusal) -> None:
        while group.waiting and group.waiting[0].since_s <= began_s:
            group.waiting.popleft().refuse(refusal)

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
            pooled.departure = Departure(self._departures, group.key, pooled)
            pooled.departure.start()

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
        pooled.depart()
        group = pooled.group
        if not pooled.is_given_up:
            self.count_failure(group, refusal.detail)
        group.connecting.remove(pooled)
        # Everyone who waits fails with the reason at once: a queue of retries would be a storm. But whoever came while
        # nobody answered has not had its time: the network may be back, and the next dial is for all of them.
        if not group.connecting:
            self._crowd_in(group)
            if refusal.outcome is Outcome.HBONE_TIMEOUT:
                self._fail_those_before(group, pooled.began_s, refusal)
            else:
                self._fail_waiters(group, refusal)
            if group.waiting:
                self._grow(group)
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
            group.proven.remove(pooled)
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
            pooled.depart()
            group.connecting.remove(pooled)
            group.proven.append(pooled)
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
            pooled.idle_since_s = self._loop.now() - pooled.idle_before_s
            if pooled.idle_timer is None:
                left_s = max(0.0, self._idle_s - pooled.idle_before_s)
                pooled.idle_timer = self._loop.later(left_s, pooled.was_idle)
        pooled.idle_before_s = 0.0

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
