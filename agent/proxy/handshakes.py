"""Inbound handshakes that are not done: anybody can begin one, so how many there are has limits.

Over the limit of an address the oldest from there gives way, over the limit of all the oldest of a crowded address: a
peer that means it is done within moments, and whoever is silent is the oldest soon. Callers, who have only connected,
and those who shake hands, which takes far more memory, have limits of their own. Steps are taken in turns: first what
is under way and addresses that have proven who they are before, then those with few, then crowds. Where many have not
gone on after their first step, all whom nobody knows get a part of the time only, and most of those have moments.
Failed ones whose socket waits for the peer to read why count apart. What this took of memory is given back when it is
over. Who has proven itself is noted where the programs look, which let others come only so fast.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container
from itertools import islice
from typing import Protocol

from agent.identity.faults import Fault
from agent.model.address import IP
from agent.net.allocator import give_back_free_memory
from agent.net.byte_stream import Parted
from agent.net.loop import Loop, Timer
from agent.net.member_table import MemberTable
from agent.net.turns import Step, Turns

CALLERS = 512
SHAKING = 128
"""60 to 70 kB each once they have been answered, 90 % of it OpenSSL's. A caller takes about 1 kB."""
MOMENT_S = 1.0
_LASTING = 4
"""A part of the limit of all, one in so many, may take longer than a moment or two: so memory is bounded by that."""
FEW = 4
"""Unfinished ones of an address that is no crowd."""
REMEMBERED = 4096
"""Addresses that have proven themselves, the last ones."""
MEMBER_S = 3600.0
"""For how long who has proven itself opens connections as fast as it likes: its address may be another's later."""
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
    """Some that are unfinished, the first to come first; a quarter of the limit for one address."""

    def __init__(self, limit: int, proven: Container[IP]) -> None:
        self.limit = limit
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
            text = f"{len(source.entries)} handshakes from {ip} were unfinished: this one was the oldest"
            self._give_up(next(iter(source.entries)), Fault.SOURCE_CROWDED, text)
        if len(self._all) >= self.limit:
            self.make_room()
        if source is None or not source.entries:  # it may have lost its last one just now
            source = self._by_ip[ip] = _Source(ip, ip in self._proven)
        source.entries[entry] = None
        self._all[entry] = source

    def make_room(self) -> bool:
        """Give up the oldest of a crowd; whether there was one."""
        if not self._all:
            return False
        text = f"{len(self._all)} handshakes were unfinished: this one was the oldest"
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
        text = f"{len(self._all)} handshakes were unfinished, and this one did not go on"
        for entry, source in tuple(self._all.items()):
            if over > 0 and entry in seen and not source.is_proven:
                self._give_up(entry, Fault.CROWDED, text)
                over -= 1

    def known(self, ip: IP) -> None:
        """Somebody there has proven who it is."""
        source = self._by_ip.get(ip)
        if source is not None:
            source.is_proven = True

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


class Handshakes:
    """Those of one worker. `connections` is what it may hold at all: unfinished are a quarter of that at most."""

    def __init__(
        self, loop: Loop, connections: int, give_back: Callable[[], None] = give_back_free_memory
    ) -> None:
        self._loop = loop
        self._give_back = give_back
        self._turns = Turns(loop, self._are_doubted)
        self._proven: OrderedDict[IP, None] = OrderedDict()
        most = max(1, connections // 4)
        self.callers = Crowd(min(CALLERS, most), self._proven)
        self.shaking = Crowd(min(SHAKING, most), self._proven)
        self._failed: deque[Parted] = deque()
        self._failures = self._failures_seen = 0
        """Since it was calm; and how many of these the last look has found."""
        self._calming: Timer | None = None
        self._members: MemberTable | None = None
        self._thinning: Timer | None = None
        self._seen: frozenset[Unproven] = frozenset()
        """Those that were unfinished a moment ago, where they are too many to last."""

    def note_in(self, members: MemberTable) -> None:
        """From now on whoever proves who it is is noted there (this object's from now on)."""
        if self._members is not None:
            self._members.close()
        self._members = members

    def __len__(self) -> int:
        return len(self.callers) + len(self.shaking)

    def make_room(self) -> bool:
        """Give one up, of those that take most; whether there was one."""
        return self.shaking.make_room() or self.callers.make_room()

    def ask_first(self, caller: Unproven, source: IP, step: Step) -> None:
        """Take a caller's first step when it is its turn."""
        self._turns.ask(source, step, self.callers.rank(caller))
        if self._thinning is None and len(self.shaking) > self.shaking.limit // _LASTING:
            self._thinning = self._loop.later(MOMENT_S, self._thin_out)

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
        source = self.shaking.end(entry)
        if source is not None:
            self._proven[source] = None
            self._proven.move_to_end(source)
            self.callers.known(source)
            self.shaking.known(source)
            self._turns.raise_up(source)
            if self._members is not None:
                self._members.note(source, MEMBER_S)
            if len(self._proven) > REMEMBERED:
                self._proven.popitem(last=False)

    def failed(self, entry: Unproven, left: Parted | None) -> None:
        """It is over, and nothing is kept of it but what is `left`, where a socket may wait for the peer."""
        self.shaking.end(entry)
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
