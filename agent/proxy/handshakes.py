"""Inbound handshakes that are not done: anybody can begin one, so how many there are has limits.

Over the limit of an address the oldest from there gives way, over the limit of all the oldest of a crowded address: a
peer that means it is done within moments, and whoever is silent is the oldest soon. Callers, who have only connected,
and those who shake hands, which takes far more memory, have limits of their own. Steps are taken in turns: first what
is under way and addresses that have proven who they are before, then those with few, then crowds. Where many have not
gone on after their first step, all whom nobody knows get a part of the time only, and most of those have moments.
Failed ones whose socket waits for the peer to read why count apart. What this took of memory is given back when it is
over. Who has proven itself is noted where the programs look, which let others come only so fast. Of those nobody gives
way to another: when all pods of a node come back at once, who is not let in yet waits, and no work is undone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container
from itertools import islice
from typing import Protocol

from agent.identity.faults import Fault
from agent.model.address import IP
from agent.model.counted import counted
from agent.net.allocator import give_back_free_memory
from agent.net.byte_stream import Parted
from agent.net.loop import Loop, Timer
from agent.net.member_table import MemberTable
from agent.net.turns import Step, Turns
from agent.proxy.proven import Proven

CALLERS, KNOWN_CALLERS = 512, 4096
SHAKING = 128
"""60 to 70 kB each once they have been answered, 90 % of it OpenSSL's. A caller takes about 1 kB."""
MOMENT_S = 1.0
_LASTING = 4
"""A part of the limit of all, one in so many, may take longer than a moment or two: so memory is bounded by that."""
FEW = 4
"""Unfinished ones of an address that is no crowd."""
RELIEF_S = 0.1
"""Where callers wait and nobody is done for so long, one is let in all the same: known ones may be silent as well."""
CALM_S = 5.0
_LOOKED_AT = 64


class Unproven(Protocol):
    """A connection whose peer has not proven who it is."""

    def give_up(self, fault: Fault, detail: str) -> None:
        """End it at once, to make room."""


class _Source:
    """An address, with what is unfinished from there. Entries hold it, because hashing an address is slow."""

    __slots__ = ("entries", "ip", "is_proven")

    def __init__(self, ip: IP, is_proven: bool) -> None:
        self.ip = ip
        self.is_proven = is_proven
        self.entries: OrderedDict[Unproven, None] = OrderedDict()

    @property
    def is_crowd(self) -> bool:
        return len(self.entries) > FEW and not self.is_proven


class Crowd:
    """Some that are unfinished, the first to come first; a quarter of the limit for one address.

    Those of addresses that have proven themselves may bring them up to `limit_of_known`.
    """

    def __init__(self, limit: int, proven: Proven, limit_of_known: int = 0) -> None:
        self.limit = limit
        self._limit_of_known = max(limit, limit_of_known)
        self.limit_per_source = max(1, limit // 4)
        self._proven = proven
        self._all: OrderedDict[Unproven, _Source] = OrderedDict()
        self._by_ip: dict[IP, _Source] = {}

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, entry: Unproven, ip: IP) -> None:
        """Count one in; what is too many is given up first."""
        source = self._by_ip.get(ip)
        if source is not None and len(source.entries) >= self.limit_per_source:
            text = (
                f"{counted(len(source.entries), 'handshake')} from {ip} unfinished: this one was the oldest"
            )
            self._give_up(next(iter(source.entries)), Fault.SOURCE_CROWDED, text)
        is_proven = self._proven.has(ip) if source is None else source.is_proven
        if len(self._all) >= (self._limit_of_known if is_proven else self.limit):
            self.make_room()
        if source is None or not source.entries:  # it may have lost its last one just now
            source = self._by_ip[ip] = _Source(ip, is_proven)
        source.entries[entry] = None
        self._all[entry] = source

    def make_room(self) -> bool:
        """Give up the oldest of a crowd; whether there was one."""
        if not self._all:
            return False
        text = f"{counted(len(self._all), 'handshake was', 'handshakes were')} unfinished: this one was the oldest"
        self._give_up(self._least(), Fault.CROWDED, text)
        return True

    def end(self, entry: Unproven) -> IP | None:
        """It is over, in whatever way; where it came from. Said twice, the second time means nothing."""
        source = self._all.pop(entry, None)
        if source is None:
            return None
        del source.entries[entry]
        if not source.entries:
            del self._by_ip[source.ip]
        return source.ip

    def entries(self) -> frozenset[Unproven]:
        return frozenset(self._all)

    def thin_out(self, left: int, seen: Container[Unproven]) -> None:
        """Give up the oldest whom nobody knows and who were `seen` before, until no more than so many are left."""
        over = len(self._all) - left
        text = f"{counted(len(self._all), 'handshake was', 'handshakes were')} unfinished, and this one did not go on"
        for entry, source in tuple(self._all.items()):
            if over > 0 and entry in seen and not source.is_proven:
                self._give_up(entry, Fault.CROWDED, text)
                over -= 1

    def known(self, ip: IP) -> None:
        """Somebody there has proven who it is."""
        source = self._by_ip.get(ip)
        if source is not None:
            source.is_proven = True

    def has(self, entry: Unproven) -> bool:
        return entry in self._all

    def is_full_for(self, ip: IP) -> bool:
        """Whether one more from this address, which has proven itself, would cost another such its place."""
        source = self._by_ip.get(ip)
        if source is not None and source.is_proven and len(source.entries) >= self.limit_per_source:
            return True
        if len(self._all) < self.limit or not self._all[self._least()].is_proven:
            return False
        return self._proven.has(ip) if source is None else source.is_proven

    def rank(self, entry: Unproven) -> int:
        """0: of an address that has proven itself; 1: of one with few; 2: of a crowd."""
        source = self._all.get(entry)
        return 1 if source is None else 0 if source.is_proven else 2 if source.is_crowd else 1

    def _least(self) -> Unproven:
        """The oldest of a crowded address nobody knows; where none stands out, of one nobody knows; or of all."""
        unknown: Unproven | None = None
        for entry, source in islice(self._all.items(), _LOOKED_AT):
            if source.is_crowd:
                return entry
            if not source.is_proven:
                unknown = unknown or entry
        return unknown or next(iter(self._all))

    def _give_up(self, entry: Unproven, fault: Fault, detail: str) -> None:
        self.end(entry)
        entry.give_up(fault, detail)


class _FirstStep:
    """What a caller waits for."""

    __slots__ = ("_handshakes", "_step", "caller", "source")

    def __init__(self, handshakes: Handshakes, caller: Unproven, source: IP, step: Step) -> None:
        self._handshakes = handshakes
        self.caller = caller
        self.source = source
        self._step = step

    def take(self) -> bool:
        if self._handshakes.callers.has(self.caller) and self._handshakes.shaking.is_full_for(self.source):
            self._handshakes.wait(self)
            return False
        return self._step()


class Handshakes:
    """Those of one worker. `connections` is what it may hold at all: unfinished are a quarter of that at most."""

    def __init__(
        self, loop: Loop, connections: int, give_back: Callable[[], None] = give_back_free_memory
    ) -> None:
        self._loop = loop
        self._give_back = give_back
        self._turns = Turns(loop, self._are_doubted)
        self._proven = Proven()
        most = max(1, connections // 4)
        self.callers = Crowd(min(CALLERS, most), self._proven, min(KNOWN_CALLERS, most))
        self.shaking = Crowd(min(SHAKING, most), self._proven)
        self._waiting: deque[_FirstStep] = deque()
        self._relief: Timer | None = None
        self._has_moved = False
        self._failed: deque[Parted] = deque()
        self._failures = self._failures_seen = 0
        """Since it was calm; and how many of these the last look has found."""
        self._calming: Timer | None = None
        self._thinning: Timer | None = None
        self._seen: frozenset[Unproven] = frozenset()
        """Those that were unfinished a moment ago, where they are too many to last."""

    def note_in(self, members: MemberTable) -> None:
        """From now on whoever proves who it is is noted there (this object's from now on)."""
        self._proven.note_in(members)

    def __len__(self) -> int:
        return len(self.callers) + len(self.shaking)

    def make_room(self) -> bool:
        """Give one up, of those that take most; whether there was one."""
        return self.shaking.make_room() or self.callers.make_room()

    def ask_first(self, caller: Unproven, source: IP, step: Step) -> None:
        """Take a caller's first step when it is its turn and there is a place for it."""
        self._turns.ask(source, _FirstStep(self, caller, source, step).take, self.callers.rank(caller))
        if self._thinning is None and len(self.shaking) > self.shaking.limit // _LASTING:
            self._thinning = self._loop.later(MOMENT_S, self._thin_out)

    def wait(self, first: _FirstStep) -> None:
        """Its turn has come, and there is no place for it."""
        if len(self._waiting) >= 2 * KNOWN_CALLERS:  # of whom no more than half are still there
            self._waiting = deque([each for each in self._waiting if self.callers.has(each.caller)])
        self._waiting.append(first)
        if self._relief is None:
            self._has_moved = False
            self._relief = self._loop.later(RELIEF_S, self._relieve)

    def _let_in(self) -> None:
        """The last who came, of those still there, asks for its turn again.

        It has most of its time left. Where all wait for too long, the first would be let in when theirs is over.
        """
        while self._waiting:
            first = self._waiting.pop()
            if self.callers.has(first.caller):
                self._turns.ask(first.source, first.take)
                return

    def _over(self, entry: Unproven) -> IP | None:
        """As `Crowd.end`; its place is free."""
        source = self.shaking.end(entry)
        if source is not None:
            self._has_moved = True
            self._let_in()
        return source

    def _relieve(self) -> None:
        if not self._has_moved:
            self.shaking.make_room()
            self._let_in()
        self._has_moved = False
        self._relief = self._loop.later(RELIEF_S, self._relieve) if self._waiting else None

    def ask_next(self, entry: Unproven, source: IP, step: Step) -> None:
        """Take a step of one that is under way: it is worth something by now, and ends the sooner."""
        self._turns.ask(source, step, 2 if self.shaking.rank(entry) == 2 else 0)

    def _thin_out(self) -> None:
        """A peer that means it goes on within moments: of the others no more than a few hold memory for longer."""
        lasting = self.shaking.limit // _LASTING
        self.shaking.thin_out(lasting, self._seen)
        self._thinning, self._seen = None, frozenset()
        if len(self.shaking) > lasting:
            self._seen = self.shaking.entries()
            self._thinning = self._loop.later(MOMENT_S, self._thin_out)

    def _are_doubted(self) -> bool:
        """A peer that means it answers within moments. Many have not, from however many addresses."""
        return len(self.shaking) > self.shaking.limit // 2

    def prove(self, entry: Unproven) -> None:
        """It is done, and well: who comes from there again is served first."""
        source = self._over(entry)
        if source is not None:
            self._proven.note(source)
            self.callers.known(source)
            self.shaking.known(source)
            self._turns.raise_up(source)

    def failed(self, entry: Unproven, left: Parted | None) -> None:
        """It is over, and nothing is kept of it but what is `left`, where a socket may wait for the peer."""
        self._over(entry)
        if left is not None:
            self._failed.append(left)
            if len(self._failed) > self.callers.limit:
                self._failed.popleft().cut()
        self.count_failure()

    def count_failure(self) -> None:
        """One is over, and nothing is left of it."""
        self._failures += 1
        if self._calming is None:
            self._calming = self._loop.later(CALM_S, self._calm)

    def _calm(self) -> None:
        """Nobody waits for so long. The allocator would keep what lies between the connections that live.

        Giving it back stops everybody for a moment, and is for nothing while a crowd still comes.
        """
        since, self._failures_seen = self._failures - self._failures_seen, self._failures
        while self._failed:
            self._failed.popleft().cut()
        if since > self.shaking.limit_per_source:
            self._calming = self._loop.later(CALM_S, self._calm)
            return
        self._calming = None
        were_many = self._failures > self.shaking.limit_per_source
        self._failures = self._failures_seen = 0
        if were_many:
            self._give_back()
