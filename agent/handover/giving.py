"""Gives the live connections of this worker to its successor, one unit after the other, serving between them.

A unit is frozen, offered, and given when the taker has it built; where that takes too long, or it does not want it, it
goes on here. A sweep takes what can move just then. What cannot yet (a handshake under way) is looked for again by
the next sweep, as long as patience lasts; what is large waits for the second one, so that it may shrink.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from agent.handover.formats import given
from agent.handover.giver import Accepted, Declined, Giver, Greeted
from agent.handover.line import Gone, Line
from agent.handover.messages import Message, ProtocolError
from agent.model.unit import BadUnit, StaysHere, Unit, values_bytes
from agent.net.loop import Loop, Timer

log = logging.getLogger(__name__)

HELLO_S = 5.0
READY_S = 1.0
LONGEST_S = 50.0
"""How long beyond its patience it goes on while things move: patience is for what cannot move yet."""
SWEEP_S, SWEEP_MOST_S = 0.02, 0.32
"""From one sweep to the next; longer and longer where nothing moved."""
LARGE_BYTES = 1 << 20
REFUSED = "the successor refused it"
LATE = "the successor did not take a connection in time"


class Movable(Protocol):
    """What can move (`agent.proxy.movable`). After `freeze` one of the other two is called, once."""

    @property
    def size_hint(self) -> int: ...

    def freeze(self) -> tuple[Unit, list[int]]:
        """Its state and descriptors, which stay its own. Raises StaysHere: it cannot travel just now, and goes on."""

    def take_back(self) -> None: ...

    def let_go(self) -> None: ...


class Stays(Protocol):
    """What cannot move now, and why."""

    @property
    def why(self) -> str: ...


class Holds(Protocol):
    """Who has the connections of this worker."""

    def movables(self) -> Iterable[Movable]: ...

    def immovable(self) -> Iterable[Stays]: ...


class Why(Enum):
    """Why something stays; the label of metrics."""

    IMMOVABLE = "immovable"
    REFUSED = "refused"
    LATE = "late"
    """Patience ended, or the hand-over did before its time."""


@dataclass(frozen=True, slots=True)
class Remains:
    """So many things that stay, for one reason; `text` for the log."""

    why: Why
    text: str
    count: int


@dataclass(slots=True)
class Account:
    """What became of a hand-over."""

    moved: Counter[str] = field(default_factory=Counter)
    """By kind of unit."""
    stays: tuple[Remains, ...] = ()
    took_s: float = 0.0
    moved_s: float = 0.0
    """Until the last of it had moved: what comes after that is waiting for what cannot yet."""
    values_bytes: int = 0
    """Of what moved, its state but for the bytes that were under way."""
    blobs_bytes: int = 0
    """Those, and keys."""
    pauses_s: list[float] = field(default_factory=list)
    """For how long each unit was frozen until it was given, or taken back."""
    failure: str = ""
    """Why it ended before its time."""


@dataclass(slots=True)
class _Frozen:
    movable: Movable
    kind: str
    key: int
    """The inode of its first socket, which stays the same here."""
    since_s: float
    values_bytes: int = 0
    blobs_bytes: int = 0


class Giving:
    """One hand-over. `over` hears its account, once; until `end` the taker is there to hear the final figures.

    `formats`: those that this process gives. `fd`: of a socket whose other end the taker has; this object's now.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int,
        formats: Sequence[int],
        holds: Holds,
        patience_s: float,
        moved: Callable[[], object],
        over: Callable[[Account], None],
    ) -> None:
        self._loop = loop
        self._holds = holds
        self._moved, self._over = moved, over
        self._giver = Giver(formats)
        self._format = 0
        self._line = Line(loop, fd, self._heard, self._ended)
        self._patience_s = patience_s
        self._began_s = self._until_s = loop.now()
        self._account = Account()
        self._is_over = False
        self._waiting: deque[Movable] = deque()
        self._frozen: _Frozen | None = None
        self._refused: set[int] = set()
        self._sweeps = 0
        self._pause_s = SWEEP_S
        self._moved_before = 0
        self._alarm: Timer | None = None
        """What happens next where nobody says anything."""

    @property
    def is_busy(self) -> bool:
        """Something is under way that must not be cut: this process may not end now."""
        return self._frozen is not None

    @property
    def is_over(self) -> bool:
        return self._is_over

    def start(self) -> None:
        self._line.start()
        self._alarm_in(HELLO_S, lambda: self.stop("the successor does not greet"))

    def stop(self, reason: str) -> None:
        """Give nothing more: what is under way goes on here, and the rest stays."""
        if not self._is_over:
            self._withdraw()
            self._finish(reason)

    def end(self, final: bytes) -> None:
        """This process ends, and has counted so much."""
        self.stop("this worker ends")
        if self._line.is_open:
            self._line.send_last(self._giver.done(final))

    # -- what the taker says

    def _heard(self, message: Message) -> None:
        answer = self._giver.receive(message)
        match answer:
            case Greeted():
                if not answer.format:
                    self._finish("the successor takes no unit of the format that this worker gives")
                    return
                self._format = answer.format
                self._until_s = self._loop.now() + self._patience_s
                self._sweep()
            case Accepted():
                if not self._line.is_flushed:
                    raise ProtocolError("the taker is ready for a unit that it has not got")
                self._give()
            case Declined():
                self._take_back(answer.reason)
        self._next()

    def _ended(self, failure: BaseException) -> None:
        if isinstance(failure, Gone):
            # Dead, or it has let go of everything that it had not been given.
            if self._frozen is not None:
                self._take_back(f"{failure}", is_refused=False)
            self._giver.no()
            self._finish(f"the successor: {failure}")
            return
        if not isinstance(failure, ProtocolError):
            log.error("a defect ended the hand-over", exc_info=failure)
        self.stop(f"{failure}")

    # -- one unit after the other

    def _sweep(self) -> None:
        if self._is_over:
            return
        self._sweeps += 1
        self._moved_before = self._account.moved.total()
        self._waiting = deque(self._holds.movables())

    def _next(self) -> None:
        """Offer the next unit that can be."""
        while not self._is_over and self._giver.is_free:
            if self._loop.now() >= self._until_s + LONGEST_S:
                self._finish("")
                return
            if not self._waiting:
                self._rest()
                return
            movable = self._waiting.popleft()
            if self._sweeps > 1 or movable.size_hint <= LARGE_BYTES:
                self._offer(movable)

    def _offer(self, movable: Movable) -> None:
        since_s = self._loop.now()
        try:
            unit, fds = movable.freeze()
        except StaysHere:
            return  # the next sweep finds it again, or the end of all sweeps says why it stays
        key = os.fstat(fds[0]).st_ino if fds else 0
        frozen = self._frozen = _Frozen(movable, unit.kind, key, since_s)
        if key in self._refused:
            self._take_back("")
            return
        try:
            data = given(unit, self._format)
        except BadUnit as error:
            self._take_back(f"{error}")
            return
        frozen.values_bytes = values_bytes(data)
        frozen.blobs_bytes = len(data) - frozen.values_bytes
        try:
            self._line.send(self._giver.offer(data, fds))
        except Gone as gone:
            self._line_is_dead(gone)
            return
        self._alarm_in(READY_S, lambda: self.stop(LATE))

    def _give(self) -> None:
        frozen = self._frozen
        assert frozen is not None, "what was accepted"
        go = self._giver.go()
        try:
            # Where it does not leave at once it leaves later, or with the end of this process.
            self._line.send_at_once(go)
        except Gone as gone:
            self._line_is_dead(gone)
            return
        self._frozen = None
        frozen.movable.let_go()
        self._timed(frozen)
        account = self._account
        account.moved[frozen.kind] += 1
        account.moved_s = self._loop.now() - self._began_s
        account.values_bytes += frozen.values_bytes
        account.blobs_bytes += frozen.blobs_bytes
        self._moved()

    def _take_back(self, reason: str, *, is_refused: bool = True) -> None:
        frozen = self._frozen
        assert frozen is not None, "what was offered"
        self._frozen = None
        if is_refused and frozen.key not in self._refused:
            log.info("a %s stays: %s: %s", frozen.kind, REFUSED, reason)
            self._refused.add(frozen.key)
        frozen.movable.take_back()
        self._timed(frozen)

    def _timed(self, frozen: _Frozen) -> None:
        self._account.pauses_s.append(self._loop.now() - frozen.since_s)

    def _rest(self) -> None:
        """The sweep is over: the next one in a moment, if anything may be left for it."""
        stays = sum(1 for _ in self._holds.movables())
        if stays <= len(self._refused) and not any(True for _ in self._holds.immovable()):
            self._finish("")
            return
        has_moved = self._account.moved.total() > self._moved_before
        if not has_moved and self._loop.now() >= self._until_s:
            self._finish("")
            return
        self._pause_s = SWEEP_S if has_moved else min(2 * self._pause_s, SWEEP_MOST_S)
        self._alarm_in(self._pause_s, self._sweep_again)

    def _sweep_again(self) -> None:
        self._sweep()
        self._next()

    # -- the end

    def _withdraw(self) -> None:
        """Have the unit under way, if there is one: the taker must have heard so before it goes on here."""
        frozen, was_flushed = self._frozen, self._line.is_flushed
        no = self._giver.no()
        if no is None or frozen is None:
            return
        try:
            if was_flushed and not self._line.send_at_once(no):
                # It cannot be told, and takes what it was offered for its own when this line ends.
                log.error("a %s cannot be taken back from a successor that does not listen", frozen.kind)
                self._frozen = None
                frozen.movable.let_go()
                self._line.close()
                return
        except Gone:
            self._line.close()
        if not was_flushed:
            # It has not got all of the unit, and never will.
            self._line.close()
        self._take_back(LATE, is_refused=False)

    def _line_is_dead(self, gone: Gone) -> None:
        self._giver.no()
        self._line.close()
        if self._frozen is not None:
            self._take_back(f"{gone}", is_refused=False)
        self._finish(f"the successor: {gone}")

    def _finish(self, failure: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._giver.no()
        self._waiting.clear()
        account = self._account
        account.failure = failure
        account.took_s = self._loop.now() - self._began_s
        account.stays = tuple(self._remains(failure))
        self._over(account)

    def _remains(self, failure: str) -> Iterator[Remains]:
        for text, count in Counter(each.why for each in self._holds.immovable()).items():
            yield Remains(Why.IMMOVABLE, text, count)
        count = sum(1 for _ in self._holds.movables())
        refused = min(count, len(self._refused))
        if refused:
            yield Remains(Why.REFUSED, REFUSED, refused)
        if count > refused:
            yield Remains(Why.LATE, failure or "there was no time left for it", count - refused)

    def _alarm_in(self, delay_s: float, action: Callable[[], object]) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.later(delay_s, action)
