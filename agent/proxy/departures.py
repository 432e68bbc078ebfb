"""Outbound HBONE connections that are being made: how many at once, and whose is next.

After a restart of a peer's node all pods want all of theirs back in the same moment. What a peer could not serve in its
time would be done for nothing, and each handshake under way holds memory: so no more than `PLACES` are under way, from
the dial to the peer's SETTINGS, and whoever waits for a place has not been dialled. Pods have their turns one after
another; of each, who came first is first. No clock of a connection runs before it has its place.

Peers that are away keep nobody else waiting. A dial that has no answer yet at the second look, or at the first where
nobody has come any further, loses its place and goes on without: a kernel answers at once, however busy its machine is.
Such targets are away until one answers: they are given no more than `PROBES` places, and those only while nobody waits
for another; so few come at once when one is back. Who is answered without a place waits for one before it says hello,
and is dialled again where the peer has been kept waiting meanwhile. A handshake has its place for as long as it takes,
unless nobody has come any further for `STUCK_S`.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import Protocol

from agent.model.address import IP, SocketAddress
from agent.net.dial import Dial, DialOwner
from agent.net.loop import Loop, Timer
from agent.proxy.pool_key import PoolKey

PLACES = 64
"""Of one worker: more than it has done in a round trip. A hello under way takes some 30 kB, most of it OpenSSL's."""
PROBES = PLACES // 8
LOOK_S = 0.25
"""Between two looks at those under way, while somebody waits."""
STUCK_S = 3.0
STALE_S = 5.0
"""Who has waited so long with a connection makes another: the peer's time for the handshake, 10 s as a rule, runs."""


class Dials(Protocol):
    def dial(self, key: PoolKey, owner: DialOwner) -> Dial:
        """Start one; `owner` is not called from inside this call."""


class Departure:
    """One connection on its way, from the place in line on; `owner` is given the socket when it may say hello.

    It has its place until `over`.
    """

    __slots__ = ("_departures", "_dial", "_key", "_owner", "_since_s", "_sock", "is_overdue", "is_probe")

    def __init__(self, departures: Departures, key: PoolKey, owner: DialOwner) -> None:
        self._departures = departures
        self._key = key
        self._owner: DialOwner | None = owner
        self._dial: Dial | None = None
        self._sock: socket.socket | None = None
        """Connected, without a place."""
        self._since_s = 0.0
        self.is_probe = False
        """Its place is one of those for targets that are away."""
        self.is_overdue = False
        """It had been dialled, and was not answered, when it was looked at last."""

    @property
    def client(self) -> IP:
        return self._key.client_ip

    @property
    def target(self) -> IP:
        return self._key.target.ip

    @property
    def is_answered(self) -> bool:
        """And waits for a place to say hello."""
        return self._sock is not None

    @property
    def is_dialled(self) -> bool:
        """And neither answered nor given up."""
        return self._dial is not None

    def start(self) -> None:
        """`owner` is never called from inside this call."""
        self._departures.enter(self)

    def go(self) -> None:
        """It has a place."""
        self.is_overdue = False
        sock, self._sock = self._sock, None
        if self._owner is None:
            return
        if sock is not None:
            is_fresh = self._departures.loop.now() - self._since_s < STALE_S
            if is_fresh and _is_open(sock):
                self._owner.connected(sock)
                return
            self._departures.loop.forget(sock.fileno())
            sock.close()
        self._dial = self._departures.dials.dial(self._key, self)

    def connected(self, sock: socket.socket) -> None:
        self._dial = None
        assert self._owner is not None, "who is over has no dial"
        if self._departures.answered(self):
            self._owner.connected(sock)
        else:
            self._sock, self._since_s = sock, self._departures.loop.now()
            self._departures.enter(self)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self._dial = None
        assert self._owner is not None, "who is over has no dial"
        self._owner.failed(target, error)

    def over(self) -> None:
        """It came to its end, or is not wanted any more; said twice, the second time means nothing."""
        self._owner = None
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._sock is not None:
            self._departures.loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._departures.leave(self)


class Departures:
    """Those of one worker."""

    def __init__(self, loop: Loop, dials: Dials, places: int = PLACES, probes: int = PROBES) -> None:
        self.loop = loop
        self.dials = dials
        self._places = places
        self._probes = probes
        self._under_way: set[Departure] = set()
        """Those with a place."""
        self._probing = 0
        """How many of them are probes."""
        self._waiting: OrderedDict[IP, OrderedDict[Departure, None]] = OrderedDict()
        """By pod, the next one first."""
        self._away: dict[IP, OrderedDict[Departure, None]] = {}
        """By target, for those that do not answer; the next one first."""
        self._timer: Timer | None = None
        self._have_moved = False
        """Some of them, since the last look."""
        self._moved_s = 0.0

    def __len__(self) -> int:
        """How many wait for a place."""
        return sum(map(len, (*self._waiting.values(), *self._away.values())))

    def enter(self, one: Departure) -> None:
        """Let it go when it has a place; one that is answered already as the first of its pod's, and not at once."""
        if len(self._under_way) < self._places and not self._waiting and not self._is_away(one):
            self._under_way.add(one)
            if one.is_answered:
                self.loop.soon(one.go)
            else:
                one.go()
            return
        if self._is_away(one):
            self._away[one.target][one] = None
            self._fill()
        else:
            self._wait(one)
            if one.is_answered:
                self._waiting[one.client].move_to_end(one, last=False)
        self._look_later()

    def answered(self, one: Departure) -> bool:
        """Its dial was; whether it has its place still."""
        self._moved()
        if one.target in self._away:
            for other in self._away.pop(one.target):
                self._wait(other)
            self._fill()
        return one in self._under_way

    def leave(self, one: Departure) -> None:
        waiting = self._waiting.get(one.client)
        if one in self._under_way:
            self._moved()
            self._give_back(one)
        elif waiting is not None and one in waiting:
            del waiting[one]
            if not waiting:
                del self._waiting[one.client]
        away = self._away.get(one.target)
        if away is not None:
            away.pop(one, None)
            if not away:
                del self._away[one.target]
        self._fill()

    def _is_away(self, one: Departure) -> bool:
        return bool(self._away) and not one.is_answered and one.target in self._away

    def _wait(self, one: Departure) -> None:
        waiting = self._waiting.get(one.client)
        if waiting is None:
            waiting = self._waiting[one.client] = OrderedDict()
        waiting[one] = None

    def _give_back(self, one: Departure) -> None:
        self._under_way.discard(one)
        self._probing -= one.is_probe
        one.is_probe = False

    def _fill(self) -> None:
        while len(self._under_way) < self._places:
            if self._waiting:
                client, waiting = self._waiting.popitem(last=False)
                one, _ = waiting.popitem(last=False)
                if waiting:
                    self._waiting[client] = waiting
                if self._is_away(one):
                    self._away[one.target][one] = None
                    continue
            elif self._probing < self._probes and (found := self._next_probe()) is not None:
                one = found
            else:
                return
            self._under_way.add(one)
            # Not from here: what fails in it is no failure of the one that leaves.
            self.loop.soon(one.go)

    def _next_probe(self) -> Departure | None:
        """Targets have their turns too; one of which nobody waits stays known as away until a dial to it ends."""
        for target, away in self._away.items():
            if away:
                one, _ = away.popitem(last=False)
                self._away[target] = self._away.pop(target)
                one.is_probe = True
                self._probing += 1
                return one
        return None

    def _moved(self) -> None:
        self._have_moved, self._moved_s = True, self.loop.now()

    def _look_later(self) -> None:
        if self._timer is None:
            self._have_moved, self._moved_s = False, self.loop.now()
            self._timer = self.loop.later(LOOK_S, self._look)

    def _look(self) -> None:
        are_stuck = self.loop.now() - self._moved_s >= STUCK_S
        for one in tuple(self._under_way):
            is_late = one.is_dialled and (one.is_overdue or not self._have_moved)
            if is_late:
                self._away.setdefault(one.target, OrderedDict())
            if is_late or are_stuck:
                self._give_back(one)
            one.is_overdue = one.is_dialled
        self._have_moved = False
        self._fill()
        self._timer = self.loop.later(LOOK_S, self._look) if len(self) else None


def _is_open(sock: socket.socket) -> bool:
    """Whether the peer, which has nothing to say before our hello, has said nothing."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
