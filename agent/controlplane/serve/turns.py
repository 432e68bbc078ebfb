"""Whose turn it is to be sent much: a whole mesh takes several times its size until its client has read it.

When a control plane starts again all agents come back at once. Some are served at a time, others wait; what is small
goes to everybody at any time. A turn ends when its response is written, and after a while in any case: a client that
does not read holds up nobody for longer than that.
"""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 4
LONGEST_S = 5.0


class Turns:
    """Shared by all streams of a control plane."""

    def __init__(self, at_once: int = AT_ONCE, longest_s: float = LONGEST_S) -> None:
        self._free = at_once
        self._longest_s = longest_s
        self._waiting: deque[Turn] = deque()

    def place(self, wake: asyncio.Event) -> Turn:
        """For one stream, in a `with`; `wake` is set when its turn comes."""
        return Turn(self, wake)

    def queue(self, turn: Turn) -> None:
        self._waiting.append(turn)
        self._go_on()

    def leave(self, turn: Turn) -> None:
        self._waiting.remove(turn)

    def free(self) -> None:
        self._free += 1
        self._go_on()

    def _go_on(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().begin(self._longest_s)


class Turn:
    """One stream's place: not asked for, in the queue, or its own at last."""

    def __init__(self, turns: Turns, wake: asyncio.Event) -> None:
        self._turns, self._wake = turns, wake
        self._is_waiting = False
        self._timer: asyncio.TimerHandle | None = None
        self.is_here = False

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_waiting:
            self._turns.leave(self)
        self.end()

    def ask(self) -> None:
        """Join the queue, if it is in there not yet."""
        if not self._is_waiting and not self.is_here:
            self._is_waiting = True
            self._turns.queue(self)

    def begin(self, longest_s: float) -> None:
        self._is_waiting, self.is_here = False, True
        self._timer = asyncio.get_running_loop().call_later(longest_s, self.end)
        self._wake.set()

    def end(self) -> None:
        """It is another's turn."""
        if self.is_here and self._timer is not None:
            self.is_here = False
            self._timer.cancel()
            self._timer = None
            self._turns.free()
