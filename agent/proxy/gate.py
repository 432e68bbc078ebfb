"""The gate in front of a listener: SYNs wait here until it is known what to answer.

A held SYN is resolved, judged and dialled for like an accepted connection, without one. Reached: it is let in, and its
connection, accepted a moment later, joins what was reached. Refused: a reset, so that connect() says ECONNREFUSED.
Time-outs are answered as the network would, by silence. Whatever is too much is let in at once and served as if there
was no gate: nothing is dropped here. What the kernel programs do for it is in bpf/README.md.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from agent.model.address import IP, SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop, Timer
from agent.proxy.arrivals import OnAccept
from agent.proxy.captured import CapturedLife, Keeper
from agent.proxy.life import GAVE_UP
from agent.wire.held_syn import HeldSyn, again, reset

HELD_OF_POD, HELD_LIMIT = 256, 2048
"""SYNs that one pod, and all pods, may have waiting in each direction."""
JOIN_S = 3.0
"""How long after its SYN was let in a client may take to be there: two of its SYN-ACKs may be lost."""
REMEMBERED_S, REMEMBERED = 2.0, 4096
"""How long, and of how many, it is known that a SYN was answered by a reset: it may have come again just then."""
SILENT = frozenset({Outcome.CONNECT_TIMEOUT, Outcome.HBONE_TIMEOUT})


Key = tuple[SocketAddress, SocketAddress]


class Frames(Protocol):
    """Sends frames by the device that leads out of the listener's namespace, whose MAC is `mac`."""

    mac: bytes

    def send(self, frame: bytes) -> bool: ...


class Accepts(Protocol):
    """A listener."""

    def take(self, count: int) -> None:
        """Accept so many that must be there."""


def nobodys(peer: SocketAddress, local: SocketAddress) -> bool:
    """Of a gate that no dial of ours comes to."""
    return False


class Fate(Enum):
    """What became of a held SYN; the value is the label of metrics."""

    __hash__ = object.__hash__

    JOINED = "joined"
    REFUSED = "refused"
    """By a reset."""
    SILENT = "silent"
    """Its destination did not answer in time, and nor does anybody."""
    GIVEN_UP = "given_up"
    """It was let in, but its client was gone by then."""
    TOO_MANY = "too_many"
    """It was let in at once."""
    HANDED_OVER = "handed_over"
    """It was let in for another worker, as this one stops serving its share."""


class Share:
    """How many SYNs of a pod wait."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0


class Held(Keeper):
    """One that waits, and what its life answers to. `owner`: of the ring that it came from; `share`: of its pod."""

    __slots__ = ("_gate", "is_let_in", "is_over", "join_by_s", "life", "owner", "share", "syn")
    __deletable__ = ("life", "syn")
    life: CapturedLife

    def __init__(self, gate: Gate, syn: HeldSyn, owner: int, share: Share) -> None:
        self._gate = gate
        self.syn = syn
        self.owner = owner
        self.share = share
        self.is_let_in = False
        self.is_over = False
        """It waits no more; what it was about is not known here any longer."""
        self.join_by_s = 0.0
        """Once it is reached: when it is given up."""

    def reached(self, life: CapturedLife) -> None:
        self._gate.on_reached(self)

    def turned_away(self, life: CapturedLife, outcome: Outcome) -> None:
        if not self.is_over:  # else it was told otherwise already
            self._gate.on_turned_away(self, outcome)


class Gate:
    """One per worker and direction. `make` has the life of a connection that is held; `accepted` serves others.

    Those that `is_own` says this worker has dialled itself, or is itself what they reach, are not held.

    A connection that joins what was reached for it was counted with its SYN, others are counted by `accepted`.
    """

    def __init__(
        self,
        loop: Loop,
        direction: Direction,
        frames: Frames,
        make: Callable[[Keeper, SocketAddress, SocketAddress], CapturedLife],
        accepted: OnAccept,
        is_own: Callable[[SocketAddress, SocketAddress], bool] = nobodys,
    ) -> None:
        self._loop = loop
        self.direction = direction
        self._frames = frames
        self._make = make
        self._accepted = accepted
        self._is_own = is_own
        self._held: dict[Key, Held] = {}
        self._shares: dict[IP, Share] = {}
        # Each is let in for the same time, so the first to be let in is the first to be given up: one timer will do.
        self._let_in_since: deque[Held] = deque()
        self._timer: Timer | None = None
        self._listeners: dict[int, Accepts] = {}
        self._reached: list[Held] = []
        """In this turn: they are let in together, one after the other."""
        self._reset: dict[Key, tuple[int, float]] = {}
        """Which SYN was answered by a reset, by its sequence number, and when that was; the oldest first."""
        self.fates: Counter[Fate] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def arrived(self, owner: int, syn: HeldSyn) -> bool:
        """A SYN, new or again. False: it is let in at once, and nothing is known of the connection that comes."""
        key = syn.key
        held = self._held.get(key)
        if held is not None:
            self._again(held, syn)
        elif self._is_own(syn.peer, syn.local):
            self._let_in(syn)
            return False
        elif self._reset and self._was_reset(syn):
            self._frames.send(reset(syn, self._frames.mac * 2))
        else:
            share = self._shares.get(syn.pod)
            if share is None:
                share = self._shares[syn.pod] = Share()
            if len(self._held) >= HELD_LIMIT or share.held >= HELD_OF_POD:
                self.fates[Fate.TOO_MANY] += 1
                self._let_in(syn)
                return False
            held = Held(self, syn, owner, share)
            life = held.life = self._make(held, syn.peer, syn.local)
            self._held[key] = held
            share.held += 1
            life.start()
        return True

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        """The listener's handler: joins what was reached for it, or is served from the beginning."""
        held = self._held.get((peer, local))
        if held is None:
            self._accepted(sock, peer, local)
        else:
            self._forget(held, Fate.JOINED).joined(sock)

    def serve(self, owner: int, listener: Accepts) -> None:
        """What is let in of this owner is accepted there."""
        self._listeners[owner] = listener

    def release(self, owner: int) -> None:
        """Another worker serves this owner from now on: it gets everything that waits here."""
        self._listeners.pop(owner, None)
        for held in [held for held in self._held.values() if held.owner == owner]:
            syn = held.syn
            life = self._forget(held, Fate.HANDED_OVER)
            if not held.is_let_in:
                self._let_in(syn)
            life.refused(Refusal(Outcome.DRAINED, "another worker goes on with it"))

    # -- answers of the lives, by what is held of them

    def on_reached(self, held: Held) -> None:
        held.join_by_s = self._loop.now() + JOIN_S
        self._let_in_since.append(held)
        if self._timer is None:
            self._timer = self._loop.later(JOIN_S, self._on_time)
        # One after the other, the kernel's handshakes of a turn find its code where the one before has put it.
        if not self._reached:
            self._loop.soon(self._let_in_those_reached)
        self._reached.append(held)

    def on_turned_away(self, held: Held, outcome: Outcome) -> None:
        syn = held.syn
        if held.is_let_in:
            # A reset could be taken for an old one now. Its connection, if it comes, begins from the beginning.
            self._forget(held, Fate.GIVEN_UP)
        elif outcome in SILENT:
            self._forget(held, Fate.SILENT)
        else:
            self._forget(held, Fate.REFUSED)
            self._frames.send(reset(syn, self._frames.mac * 2))
            self._remember(syn)

    # -- steps

    def _again(self, held: Held, syn: HeldSyn) -> None:
        # The newest: to the answer to an older one its client would say RST.
        held.syn = syn
        if held.is_let_in:
            self._let_in(syn)

    def _remember(self, syn: HeldSyn) -> None:
        if len(self._reset) >= REMEMBERED:
            del self._reset[next(iter(self._reset))]
        self._reset.pop(syn.key, None)
        self._reset[syn.key] = syn.sequence, self._loop.now()

    def _was_reset(self, syn: HeldSyn) -> bool:
        """It crossed the reset: dialled again, the destination would be reached for a client that has left."""
        known = self._reset.get(syn.key)
        if known is None:
            return False
        sequence, at_s = known
        if self._loop.now() - at_s > REMEMBERED_S:
            del self._reset[syn.key]
            return False
        return sequence == syn.sequence

    def _let_in(self, syn: HeldSyn) -> None:
        # One that is lost on its way comes again, as its client has no answer.
        self._frames.send(again(syn, self._frames.mac))

    def _let_in_those_reached(self) -> None:
        """The whole handshake runs while the SYN is sent, unless its client is slow: another turn is not waited for."""
        reached, self._reached = self._reached, []
        handshaken: dict[int, int] = {}
        for held in reached:
            if not held.is_over:
                held.is_let_in = True
                self._let_in(held.syn)
                handshaken[held.owner] = handshaken.get(held.owner, 0) + 1
        for owner, count in handshaken.items():
            listener = self._listeners.get(owner)
            if listener is not None:
                listener.take(count)

    def _on_time(self) -> None:
        """Give up those that have not joined by now; most have, long ago."""
        self._timer = None
        now_s = self._loop.now()
        while self._let_in_since:
            held = self._let_in_since[0]
            if held.join_by_s > now_s:
                self._timer = self._loop.later(held.join_by_s - now_s, self._on_time)
                return
            self._let_in_since.popleft()
            if not held.is_over:
                self._forget(held, Fate.GIVEN_UP).refused(Refusal(Outcome.RESET, GAVE_UP))

    def _forget(self, held: Held, fate: Fate) -> CapturedLife:
        """Whose life it was. Apart, both go without the garbage collector."""
        self.fates[fate] += 1
        syn, life = held.syn, held.life
        held.is_over = True
        del held.syn, held.life
        del self._held[syn.key]
        held.share.held -= 1
        if not held.share.held:
            del self._shares[syn.pod]
        return life
