"""A place in line for a tunnel of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model.outcome import Outcome, Refusal, refused_connect
from agent.model.unit import State, StateReader
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.proxy.pool_key import Headers, PoolKey, WantsTunnel
from agent.proxy.unanswered import no_answer
from agent.wire.hbone import ACCEPTED, ConnectHead

if TYPE_CHECKING:
    from agent.proxy.pool import Pool
    from agent.proxy.pooled_link import Group

LONG_WAIT_S = 1.0
TRIES = 3
"""How many connections may end under one who waits, unanswered: a peer that restarts takes two away at most."""


class Waiter:
    """A place in line for a tunnel, until its owner is answered: first in the group, then on a connection."""

    __slots__ = (
        "_asked_before_s",
        "_group",
        "_is_reused",
        "_owner",
        "_pool",
        "_since_s",
        "_tries",
        "_tunnel",
        "head",
    )

    def __init__(self, pool: Pool, group: Group, head: ConnectHead, owner: WantsTunnel) -> None:
        self.head = head
        self._pool = pool
        self._group = group
        self._owner: WantsTunnel | None = owner
        self._tunnel: Tunnel | None = None
        self._is_reused = False
        self._tries = TRIES
        self._since_s = pool.now()
        self._asked_before_s = 0.0
        """How long the peer had been asked when this process began to wait for it."""

    def start(self, link: TunnelLink, *, reused: bool) -> None:
        """Ask for the tunnel on this connection; `reused`: it has served others before."""
        self._is_reused = reused
        self._tunnel = link.open(self.head, self)
        self._pool.unanswered.add(self)

    # -- from one process to another

    @property
    def owner(self) -> WantsTunnel | None:
        return self._owner

    @property
    def since_s(self) -> float:
        """When it began to wait, by the loop's clock."""
        return self._since_s

    @property
    def key(self) -> PoolKey:
        return self._group.key

    @property
    def is_on_its_way(self) -> bool:
        """It goes with a connection that is proven."""
        return self._tunnel is not None and self._tunnel.link.secured is not None

    def hand_on(self) -> State:
        """Another process waits for the answer: nothing of it is here any more."""
        unanswered = self._pool.unanswered
        state: State = {
            "is_reused": self._is_reused,
            "tries": self._tries,
            "waited_s": self._pool.now() - self._since_s,
            "asked_s": unanswered.waited_s(self),
        }
        unanswered.remove(self)
        self._owner = self._tunnel = None
        return state

    def withdraw(self) -> float:
        """Another process asks anew: nobody has been asked yet. For how long it has waited, in s."""
        self._pool.unanswered.remove(self)
        self._owner = None
        if self._tunnel is not None:
            self._tunnel.reset()
            self._tunnel = None
        self._pool.leave(self._group, self)
        return self._pool.now() - self._since_s

    def has_waited(self, waited_s: float) -> None:
        """In another process."""
        self._since_s -= waited_s

    @classmethod
    def from_state(
        cls, pool: Pool, group: Group, tunnel: Tunnel, owner: WantsTunnel, reader: StateReader
    ) -> Waiter:
        """One that waits for the answer to what was asked on `tunnel`. Raises BadUnit."""
        made = cls(pool, group, tunnel.head, owner)
        made._is_reused = reader.flag("is_reused")
        made._tries = reader.integer("tries", 1, TRIES)
        made._since_s -= reader.number("waited_s")
        asked_s = reader.number("asked_s")
        reader.done()
        made._tunnel = tunnel
        made._asked_before_s = asked_s
        return made

    def go_on(self, group: Group) -> None:
        assert self._tunnel is not None, "it was made of one"
        self._group = group
        self._tunnel.asker = self
        self._pool.unanswered.add(self, self._asked_before_s)

    # -- steps

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
        self.refuse(refused_connect(status, str(self._group.key.target)))

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
