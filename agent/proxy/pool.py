"""The pool of outbound HBONE connections: decides which one carries a tunnel, and when to dial another.

Connections are never shared between two source pods, even of one identity: the peer judges the source address
(docs/WIRE.md#waypoints). A burst to one destination waits for one handshake; how many tunnels a connection
takes is what the peer's SETTINGS say now, under a cap of our own. Failures reach exactly those who wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from agent.model.address import IP, SocketAddress
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop, Timer
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.wire.hbone import ACCEPTED, ConnectHead

Headers = tuple[tuple[str, str], ...]


class PoolKey(NamedTuple):
    """What two tunnels must share to share a connection."""

    source: Identity
    accepted: tuple[Identity, ...]
    target: SocketAddress
    client_ip: IP


class Connector(Protocol):
    """Makes the link of a key: dials, then starts the handshake. Reports exactly once."""

    def __call__(
        self,
        key: PoolKey,
        events: LinkEvents,
        linked: Callable[[TunnelLink], None],
        failed: Callable[[Refusal], None],
    ) -> None: ...


@dataclass(slots=True)
class Waiter:
    """Somebody who wants a tunnel. Exactly one of the two is called, once."""

    head: ConnectHead
    opened: Callable[[Tunnel, Headers], None]
    refused: Callable[[Refusal], None]
    retried: bool = False


class LinkEvents:
    """What a link of the pool reports, bound to its group."""

    __slots__ = ("group", "idle_timer", "is_proven", "pool")

    def __init__(self, pool: Pool, group: Group) -> None:
        self.pool = pool
        self.group = group
        self.is_proven = False
        self.idle_timer: Timer | None = None

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        """The handshake has already checked the peer against the accepted identities."""

    def available(self, link: TunnelLink) -> None:
        self.pool.became_available(self, link)

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.pool.link_closed(self, link, Refusal(outcome, detail))


@dataclass(slots=True)
class Group:
    """The connections and the waiters of one key."""

    key: PoolKey
    links: list[TunnelLink] = field(default_factory=list)
    connecting: int = 0
    waiting: deque[Waiter] = field(default_factory=deque)


def links_to_dial(waiting: int, connecting: int, per_link: int) -> int:
    """How many more connections a group needs so that everyone who waits gets a tunnel."""
    needed = -(-waiting // max(per_link, 1))
    return max(0, needed - connecting)


class Pool:
    """One per worker. `streams_limit` caps the tunnels of a connection; `idle_s` closes unused ones."""

    def __init__(self, loop: Loop, connect: Connector, *, streams_limit: int, idle_s: float) -> None:
        self._loop = loop
        self._connect = connect
        self._streams_limit = streams_limit
        self._idle_s = idle_s
        self._groups: dict[PoolKey, Group] = {}

    def open(
        self,
        key: PoolKey,
        head: ConnectHead,
        opened: Callable[[Tunnel, Headers], None],
        refused: Callable[[Refusal], None],
    ) -> Waiter:
        """Ask for a tunnel. `opened` gets it once the peer answered 200, with its headers."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        waiter = Waiter(head, opened, refused)
        self._enqueue(group, waiter)
        return waiter

    @property
    def links(self) -> list[tuple[Identity, TunnelLink]]:
        """Every connection with the identity it is ours by."""
        return [(group.key.source, link) for group in self._groups.values() for link in group.links]

    def close_source(self, addresses: frozenset[IP]) -> None:
        """Drop every connection made in the name of these pod addresses, at once."""
        for group in [g for g in self._groups.values() if g.key.client_ip in addresses]:
            self._fail_waiters(group, Refusal(Outcome.POD_REMOVED))
            for link in list(group.links):
                link.abort(Outcome.POD_REMOVED, "the pod left the mesh")

    def go_away(self) -> None:
        """Let every connection finish its tunnels and close."""
        for _, link in self.links:
            link.go_away()

    def _enqueue(self, group: Group, waiter: Waiter) -> None:
        if not group.waiting:
            for link in group.links:
                if link.free_streams > 0:
                    self._start(group, link, waiter, reused=True)
                    return
        group.waiting.append(waiter)
        self._grow(group)

    def _grow(self, group: Group) -> None:
        for _ in range(links_to_dial(len(group.waiting), group.connecting, self._per_link(group))):
            group.connecting += 1
            events = LinkEvents(self, group)
            self._connect(
                group.key,
                events,
                lambda link: group.links.append(link),
                lambda refusal: self._not_connected(group, refusal),
            )

    def _per_link(self, group: Group) -> int:
        """Tunnels a connection to this peer takes: as its live settings say, else our own cap."""
        usable = [link for link in group.links if link.is_usable and link.secured is not None]
        known = [link.open_streams + link.free_streams for link in usable]
        return min([self._streams_limit, *(n for n in known if n > 0)])

    def _start(self, group: Group, link: TunnelLink, waiter: Waiter, *, reused: bool) -> None:
        def answered(tunnel: Tunnel, status: int, headers: Headers) -> None:
            if status == ACCEPTED:
                waiter.opened(tunnel, headers)
            elif status:
                waiter.refused(
                    Refusal(Outcome.UPSTREAM_REFUSED, f"http status: {status} from {group.key.target}")
                )
            elif reused and not waiter.retried:
                # The connection ended before the peer answered: nothing was relayed, so another may try.
                waiter.retried = True
                self._enqueue(group, waiter)
            else:
                waiter.refused(tunnel.failure or Refusal(Outcome.RESET, "the HBONE connection ended"))

        link.open(waiter.head, answered)

    def became_available(self, events: LinkEvents, link: TunnelLink) -> None:
        """Settings arrived or tunnels ended: serve who waits, or arm the idle timer."""
        group = events.group
        if not events.is_proven:
            events.is_proven = True
            group.connecting -= 1
        while group.waiting and link.is_usable and link.free_streams > 0:
            self._start(group, link, group.waiting.popleft(), reused=False)
        if group.waiting and link.open_streams == 0 and link.free_streams == 0:
            self._fail_waiters(
                group, Refusal(Outcome.UPSTREAM_REFUSED, f"{group.key.target} allows no tunnels")
            )
        if group.waiting:
            self._grow(group)
        self._watch_idle(events, link)

    def _watch_idle(self, events: LinkEvents, link: TunnelLink) -> None:
        if events.idle_timer is not None:
            events.idle_timer.cancel()
            events.idle_timer = None
        if link.open_streams == 0:
            events.idle_timer = self._loop.later(self._idle_s, lambda: self._retire(link))

    def _retire(self, link: TunnelLink) -> None:
        if link.open_streams == 0:
            link.go_away()

    def link_closed(self, events: LinkEvents, link: TunnelLink, refusal: Refusal) -> None:
        group = events.group
        if events.idle_timer is not None:
            events.idle_timer.cancel()
        if link in group.links:
            group.links.remove(link)
        if not events.is_proven:
            events.is_proven = True
            self._not_connected(group, refusal)
        self._forget_if_empty(group)

    def _not_connected(self, group: Group, refusal: Refusal) -> None:
        group.connecting -= 1
        # Everyone who waits fails with the reason at once: a queue of retries would be a storm.
        if group.connecting == 0:
            self._fail_waiters(group, refusal)
        self._forget_if_empty(group)

    def _fail_waiters(self, group: Group, refusal: Refusal) -> None:
        while group.waiting:
            group.waiting.popleft().refused(refusal)

    def _forget_if_empty(self, group: Group) -> None:
        if not group.links and not group.waiting and not group.connecting:
            self._groups.pop(group.key, None)
