"""Handshake steps one after another, so that those of strangers stop nobody else.

A step is most of a millisecond of computing. Of those that are due, one is taken in each round of the loop, and of
their sources one after another: however many connections an address opens, it delays others by one step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from agent.net.loop import Loop

Step = Callable[[], bool]
"""Answers whether there was something to do; nothing is for a connection that has gone meanwhile."""
AskTurn = Callable[[Step], None]


class Turns:
    """The steps that are due, by source; one for each worker."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._due: OrderedDict[Hashable, deque[Step]] = OrderedDict()
        self._is_awake = False

    def ask(self, source: Hashable, step: Step) -> None:
        """Take this step when its source has its turn: with nobody else there, in this round."""
        steps = self._due.get(source)
        if steps is None:
            self._due[source] = deque((step,))
        else:
            steps.append(step)
        if not self._is_awake:
            self._is_awake = True
            self._loop.soon(self._take)

    def _take(self) -> None:
        self._is_awake = False
        while self._due:
            source, steps = self._due.popitem(last=False)
            step = steps.popleft()
            if steps:
                self._due[source] = steps
            if self._due and not self._is_awake:
                self._is_awake = True
                # Before the step: it may raise, and the others have their turn all the same.
                self._loop.soon(self._take)
            if step():
                return
