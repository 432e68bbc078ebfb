"""Outbound HBONE connections that are being made: how many at once, and whose is next.

After a restart of a peer's node all pods want all of theirs back in the same moment. What a peer could not serve in its
time would be done for nothing, and each handshake under way holds memory: so no more than `PLACES` are under way, from
the dial to the last step, and whoever waits for a place has not been dialled. Pods have their turns one after another;
of each, who came first is first. No clock of a connection runs before it has its place.

Peers that say nothing keep nobody waiting for long: where nobody has come any further for `RELIEF_S`, those under way
lose their places and go on without. Whoever is connected then waits for another before it says hello, and is dialled
again where the peer's patience has ended meanwhile.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import Protocol

from agent.model.address import IP, SocketAddress
from agent.net.dial import Dial, DialOwner
from agent.net.loop import Loop, Timer
from agent.proxy.pool_key import PoolKey

PLACES = 256
"""Of one worker. A hello under way takes some 30 kB, most of it OpenSSL's."""
RELIEF_S = 0.25


class Dials(Protocol):
    def dial(self, key: PoolKey, owner: DialOwner) -> Dial:
        """Start one; `owner` is not called from inside this call."""


class Departure:
    """One connection on its way, from the place in line on; `owner` is given the socket when it may say hello.

    It has its place until `over`.
    """

    __slots__ = ("_departures", "_dial", "_key", "_owner", "_sock")

    def __init__(self, departures: Departures, key: PoolKey, owner: DialOwner) -> None:
        self._departures = departures
        self._key = key
        self._owner: DialOwner | None = owner
        self._dial: Dial | None = None
        self._sock: socket.socket | None = None
        """Connected, without a place."""

    @property
    def client(self) -> IP:
        return self._key.client_ip

    def start(self) -> None:
        """`owner` is never called from inside this call."""
        self._departures.enter(self)

    def go(self) -> None:
        """It has a place."""
        sock, self._sock = self._sock, None
        if self._owner is None:
            return
        if sock is not None:
            if _is_open(sock):
                self._owner.connected(sock)
                return
            self._departures.loop.forget(sock.fileno())
            sock.close()
        self._dial = self._departures.dials.dial(self._key, self)

    def connected(self, sock: socket.socket) -> None:
        self._dial = None
        assert self._owner is not None, "who is over has no dial"
        if self._departures.has_moved(self):
            self._owner.connected(sock)
        else:
            self._sock = sock
            self._departures.enter(self, first=True)

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

    def __init__(self, loop: Loop, dials: Dials, places: int = PLACES) -> None:
        self.loop = loop
        self.dials = dials
        self._places = places
        self._under_way: set[Departure] = set()
        """Those with a place."""
        self._waiting: OrderedDict[IP, OrderedDict[Departure, None]] = OrderedDict()
        """By pod, the next one first."""
        self._relief: Timer | None = None
        self._have_moved = False

    def __len__(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    def enter(self, one: Departure, *, first: bool = False) -> None:
        """Let it go when it has a place; `first` of its pod's."""
        if not self._waiting and len(self._under_way) < self._places:
            self._under_way.add(one)
            if first:
                self.loop.soon(one.go)
            else:
                one.go()
            return
        waiting = self._waiting.get(one.client)
        if waiting is None:
            waiting = self._waiting[one.client] = OrderedDict()
        waiting[one] = None
        if first:
            waiting.move_to_end(one, last=False)
        if self._relief is None:
            self._have_moved = False
            self._relief = self.loop.later(RELIEF_S, self._relieve)

    def has_moved(self, one: Departure) -> bool:
        """Its peer has answered; whether it has its place still."""
        self._have_moved = True
        return one in self._under_way

    def leave(self, one: Departure) -> None:
        if one in self._under_way:
            self._have_moved = True
            self._under_way.remove(one)
            self._fill()
            return
        waiting = self._waiting.get(one.client)
        if waiting is not None and one in waiting:
            del waiting[one]
            if not waiting:
                del self._waiting[one.client]

    def _fill(self) -> None:
        while self._waiting and len(self._under_way) < self._places:
            client, waiting = self._waiting.popitem(last=False)
            one, _ = waiting.popitem(last=False)
            if waiting:
                self._waiting[client] = waiting
            self._under_way.add(one)
            # Not from here: what fails in it is no failure of the one that leaves.
            self.loop.soon(one.go)

    def _relieve(self) -> None:
        self._relief = None
        if not self._have_moved:
            self._under_way.clear()
            self._fill()
        if self._waiting:
            self._have_moved = False
            self._relief = self.loop.later(RELIEF_S, self._relieve)


def _is_open(sock: socket.socket) -> bool:
    """Whether the peer, which has nothing to say before our hello, has said nothing."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
