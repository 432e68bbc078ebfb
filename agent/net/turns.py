"""Handshake steps one after another, so that those of strangers stop nobody else.

A step is most of a millisecond of computing. Of those that are due, one is taken in each round of the loop, and of
their sources one after another: however many connections an address opens, it delays others by one step. Sources have
ranks: the first with something due is served, but every fourth turn is for the next one, so that no rank starves. The
last rank, of crowds, gets so little of the time that hardly anybody meets it: what it does not get to is given up by
its own limits, and a source that turns out to be known is `raise_up`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from agent.net.loop import Loop

Step = Callable[[], bool]
"""Answers whether there was something to do; nothing is for a connection that has gone meanwhile."""
AskTurn = Callable[[Step], None]
RANKS = 3
_SHARE = 4
CROWD_REST, CROWD_REST_S = 255, 0.5
"""How long the last rank rests after a step: so many times what that took, at most so many seconds."""


class Turns:
    """The steps that are due, by rank and source; one for each worker."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._due: tuple[OrderedDict[Hashable, deque[Step]], ...] = tuple(OrderedDict() for _ in range(RANKS))
        self._is_awake = False
        self._is_resting = False
        self._taken = 0
        self._crowd_at_s = 0.0

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
        while due := self._next():
            begun_s = self._loop.now()
            source, steps = due.popitem(last=False)
            step = steps.popleft()
            if steps:
                due[source] = steps
            if any(self._due) and not self._is_awake:
                # Where only a crowd is left that has to rest, that turn finds nothing and says when.
                self._is_awake = True
                # Before the step: it may raise, and the others have their turn all the same.
                self._loop.soon(self._take)
            if step():
                self._taken += 1
                if due is self._due[-1]:
                    now_s = self._loop.now()
                    self._crowd_at_s = now_s + min(CROWD_REST * (now_s - begun_s), CROWD_REST_S)
                return

    def _wake(self) -> None:
        self._is_resting = False
        if not self._is_awake:
            self._is_awake = True
            self._loop.soon(self._take)

    def _next(self) -> OrderedDict[Hashable, deque[Step]] | None:
        """The rank whose turn it is; None where nothing is due."""
        waiting = [due for due in self._due if due]
        if waiting and waiting[-1] is self._due[-1]:
            rest_s = self._crowd_at_s - self._loop.now()
            if rest_s > 0:
                waiting.pop()
                if not self._is_resting:
                    self._is_resting = True
                    self._loop.later(rest_s, self._wake)
        if not waiting:
            return None
        # 1 in 4 for the second that waits, 1 in 16 for the third.
        taken, at = self._taken, 0
        while at + 1 < len(waiting) and taken % _SHARE == _SHARE - 1:
            taken, at = taken // _SHARE, at + 1
        return waiting[at]
