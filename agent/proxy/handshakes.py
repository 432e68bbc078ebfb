"""Inbound handshakes that are not done: anybody can begin one, so how many there are has limits.

Over the limit of an address the oldest from there gives way, over the limit of all the oldest of all: a peer that
means it is done within moments, and whoever is silent is the oldest soon. Failed ones whose socket waits for the peer
to read why count apart, by the same rule. What this took of memory is given back when it is over.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from typing import Protocol

from agent.identity.faults import Fault
from agent.model.address import IP
from agent.net.loop import Loop, Timer
from agent.net.turns import Turns

LIMIT = 512
CALM_S = 5.0
_libc = ctypes.CDLL(None)


class Unproven(Protocol):
    """A connection whose peer has not proven who it is."""

    def give_up(self, fault: Fault, detail: str) -> None:
        """End it at once, to make room."""

    def drop(self) -> None:
        """It has failed: close what is left of it."""


class Handshakes:
    """Those of one worker. `connections` is what it may hold at all: of these a quarter, and LIMIT at most."""

    def __init__(self, loop: Loop, connections: int) -> None:
        self._loop = loop
        self.turns = Turns(loop)
        self.limit = max(1, min(LIMIT, connections // 4))
        self.limit_per_source = max(1, self.limit // 4)
        self._all: OrderedDict[Unproven, IP] = OrderedDict()
        self._by_source: dict[IP, OrderedDict[Unproven, None]] = {}
        self._failed: OrderedDict[Unproven, None] = OrderedDict()
        self._calming: Timer | None = None

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, entry: Unproven, source: IP) -> None:
        """Count one in; what is too many is given up first."""
        own = self._by_source.get(source)
        if own is not None and len(own) >= self.limit_per_source:
            text = f"{len(own)} handshakes from {source} were unfinished: this one was the oldest"
            self._give_up(next(iter(own)), Fault.SOURCE_CROWDED, text)
        if len(self._all) >= self.limit:
            self.make_room()
        self._all[entry] = source
        self._by_source.setdefault(source, OrderedDict())[entry] = None

    def make_room(self) -> bool:
        """Give up the oldest; whether there was one."""
        if not self._all:
            return False
        text = f"{len(self._all)} handshakes were unfinished: this one was the oldest"
        self._give_up(next(iter(self._all)), Fault.CROWDED, text)
        return True

    def end(self, entry: Unproven) -> None:
        """It is done, or over. Said twice, the second time means nothing."""
        source = self._all.pop(entry, None)
        if source is None:
            return
        own = self._by_source[source]
        del own[entry]
        if not own:
            del self._by_source[source]

    def failed(self, entry: Unproven) -> None:
        """It is over, and its socket may wait for the peer."""
        self.end(entry)
        self._failed[entry] = None
        if len(self._failed) > self.limit:
            self._failed.popitem(last=False)[0].drop()
        if self._calming is None:
            self._calming = self._loop.later(CALM_S, self._calm)

    def _give_up(self, entry: Unproven, fault: Fault, detail: str) -> None:
        self.end(entry)
        entry.give_up(fault, detail)

    def _calm(self) -> None:
        """Nobody waits for so long. The allocator would keep what lies between the connections that live."""
        self._calming = None
        were_many = len(self._failed) > self.limit_per_source
        while self._failed:
            self._failed.popitem(last=False)[0].drop()
        if were_many:
            _libc.malloc_trim(0)
