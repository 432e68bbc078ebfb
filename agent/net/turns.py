"""Handshake steps one after another, so that those of strangers stop nobody else.

A step is most of a millisecond of computing. Of those that are due, one is taken in each round of the loop, and of
their sources one after another: however many connections an address opens, it delays others by one step. Sources have
ranks: the first with something due is served, but every fourth turn is for the next one, so that no rank starves. The
last rank, of crowds, gets so little of the time that hardly anybody meets it: what it does not get to is given up by
its own limits, and a source that turns out to be known is `raise_up`. The one before it, of those nobody knows, gets a
small part while `are_doubted` says so.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from agent.net.loop import Loop, Timer

Step = Callable[[], bool]
"""Answers whether there was something to do; nothing is for a connection that has gone meanwhile."""
AskTurn = Callable[[Step], None]
RANKS = 3
_SHARE = 4
CROWD_REST, CROWD_REST_S = 255, 0.5
"""How long the last rank rests after a step: so many times what that took, at most so many seconds."""
DOUBTED_REST, DOUBTED_REST_S = 15, 0.05
"""The same for the one before it, while those are doubted."""


class Turns:
    """The steps that are due, by rank and source; one for each worker."""

    def __init__(self, loop: Loop, are_doubted: Callable[[], bool] = lambda: False) -> None:
        self._loop = loop
        self._are_doubted = are_doubted
        self._due: tuple[OrderedDict[Hashable, deque[Step]], ...] = tuple(OrderedDict() for _ in range(RANKS))
        self._is_awake = False
        self._taken = 0
        self._rested_at_s = [0.0] * RANKS
        self._waker: Timer | None = None

    def ask(self, source: Hashable, step: Step, rank: int = 0) -> None:
        """Take this step when its source has its turn: with nobody else there, in this round."""
        due = self._due[rank]
        steps = due.get(source)
        if steps is None:
            due[source] = deque((step,))
        else:
            steps.append(step)
        if not self._is_awake:
            self._is_awake = True
            self._loop.soon(self._take)

    def raise_up(self, source: Hashable) -> None:
        """What is due of this source goes to the first rank."""
        for due in self._due[1:]:
            for step in due.pop(source, ()):
                self.ask(source, step)

    def _take(self) -> None:
        self._is_awake = False
        while (rank := self._next()) is not None:
            due = self._due[rank]
            begun_s = self._loop.now()
            source, steps = due.popitem(last=False)
            step = steps.popleft()
            if steps:
                due[source] = steps
            if any(self._due) and not self._is_awake:
                # Where all that is left has to rest, that turn finds nothing and says when.
                self._is_awake = True
                # Before the step: it may raise, and the others have their turn all the same.
                self._loop.soon(self._take)
            if step():
                self._taken += 1
                if rank == RANKS - 1:
                    self._rest(rank, begun_s, CROWD_REST, CROWD_REST_S)
                elif rank == RANKS - 2 and self._are_doubted():
                    self._rest(rank, begun_s, DOUBTED_REST, DOUBTED_REST_S)
                return

    def _rest(self, rank: int, begun_s: float, times: int, at_most_s: float) -> None:
        now_s = self._loop.now()
        self._rested_at_s[rank] = now_s + min(times * (now_s - begun_s), at_most_s)

    def _wake(self) -> None:
        self._waker = None
        if not self._is_awake:
            self._is_awake = True
            self._loop.soon(self._take)

    def _next(self) -> int | None:
        """The rank whose turn it is; None where nothing is due, or has to rest."""
        waiting = [rank for rank, due in enumerate(self._due) if due]
        if waiting and waiting[-1] >= RANKS - 2:
            waiting = self._rested(waiting)
        if not waiting:
            return None
        # 1 in 4 for the second that waits, 1 in 16 for the third.
        taken, at = self._taken, 0
        while at + 1 < len(waiting) and taken % _SHARE == _SHARE - 1:
            taken, at = taken // _SHARE, at + 1
        return waiting[at]

    def _rested(self, waiting: list[int]) -> list[int]:
        """Those that need not rest now; a timer is set for the others."""
        now_s = self._loop.now()
        tired_s = [at_s for rank in waiting if (at_s := self._rested_at_s[rank]) > now_s]
        if not tired_s:
            return waiting
        at_s = min(tired_s)
        if self._waker is None or self._waker.at_s > at_s:
            if self._waker is not None:
                self._waker.cancel()
            self._waker = self._loop.later(at_s - now_s, self._wake)
        return [rank for rank in waiting if self._rested_at_s[rank] <= now_s]
