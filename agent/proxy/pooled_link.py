"""One connection of the pool, and those of one key with who waits for them. What becomes of them the pool decides."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.model.address import SocketAddress
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Timer
from agent.net.tunnel_link import TunnelLink
from agent.proxy.departures import Departure
from agent.proxy.life import dial_refusal
from agent.proxy.pool_key import PoolKey
from agent.proxy.pool_waiter import Waiter

if TYPE_CHECKING:
    from agent.proxy.pool import Pool


class PooledLink:
    """One connection of the pool, from its place in line to its end: owns its departure, hears the link."""

    __slots__ = (
        "began_s",
        "departure",
        "group",
        "idle_before_s",
        "idle_since_s",
        "idle_timer",
        "is_given_up",
        "is_proven",
        "link",
        "pool",
    )

    def __init__(self, pool: Pool, group: Group) -> None:
        self.pool = pool
        self.group = group
        self.began_s = pool.now()
        self.departure: Departure | None = None
        self.link: TunnelLink | None = None
        self.is_proven = self.is_given_up = False
        self.idle_since_s = 0.0
        self.idle_before_s = 0.0
        """How long nothing had used it when it came here; until it says that it is available."""
        self.idle_timer: Timer | None = None

    def connected(self, sock: socket.socket) -> None:
        self.pool.link_dialled(self, sock)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self.pool.link_failed(self, dial_refusal(error, target, is_hbone=True))

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        """The handshake has already checked the peer against the accepted identities."""

    def depart(self) -> None:
        """It is of use by now, or will never be."""
        departure, self.departure = self.departure, None
        if departure is not None:
            departure.over()

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
        if self.link is not None:
            self.link.abort(outcome, detail)
        else:
            self.pool.link_failed(self, Refusal(outcome, detail))


@dataclass(slots=True)
class Group:
    """The connections and the waiters of one key. Those connecting are not proven yet: dial or handshake."""

    key: PoolKey
    links: list[TunnelLink] = field(default_factory=list)
    proven: list[PooledLink] = field(default_factory=list)
    connecting: list[PooledLink] = field(default_factory=list)
    waiting: deque[Waiter] = field(default_factory=deque)
