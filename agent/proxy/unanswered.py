"""Who has asked a peer for a tunnel and hears nothing: after a while it is told so, and waits no longer.

A peer that is alive, and answers pings, may still never answer a CONNECT. Each that waits holds a client, a place of
--max-connections and a stream of the peer's. One timer for all of them, as hardly anybody ever waits for long.
"""

from __future__ import annotations

from typing import Protocol

from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop, Timer


class Asker(Protocol):
    """Who waits."""

    def unanswered(self, waited_s: float) -> None:
        """Give up: nobody has answered for so long. Not in the list any more."""


class Unanswered:
    """Those who wait, the one who has waited longest first. One per worker."""

    def __init__(self, loop: Loop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._since_s: dict[Asker, float] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._since_s)

    def add(self, asker: Asker, waited_s: float = 0.0) -> None:
        """It has asked just now, or so long ago in another process; it is not in the list yet."""
        self._since_s[asker] = self._loop.now() - waited_s
        if waited_s:
            self._since_s = dict(sorted(self._since_s.items(), key=lambda item: item[1]))
            if self._timer is not None:
                self._timer.cancel()
            due_s = next(iter(self._since_s.values())) + self._limit_s
            self._timer = self._loop.later(max(0.0, due_s - self._loop.now()), self._look)
        elif self._timer is None:
            self._timer = self._loop.later(self._limit_s, self._look)

    def waited_s(self, asker: Asker) -> float:
        """How long it has waited; who is not in the list has not."""
        now_s = self._loop.now()
        return now_s - self._since_s.get(asker, now_s)

    def remove(self, asker: Asker) -> None:
        """It is answered, or does not want to know; who is not in the list is ignored."""
        self._since_s.pop(asker, None)

    def _look(self) -> None:
        self._timer = None
        now_s = self._loop.now()
        for asker, since_s in tuple(self._since_s.items()):
            left_s = since_s + self._limit_s - now_s
            if left_s > 0:
                self._timer = self._loop.later(left_s, self._look)
                return
            # The end of one may have been that of others.
            if self._since_s.pop(asker, None) is not None:
                asker.unanswered(now_s - since_s)
        if self._since_s and self._timer is None:
            self._timer = self._loop.later(self._limit_s, self._look)


def no_answer(whose: object, waited_s: float) -> Refusal:
    return Refusal(
        Outcome.CONNECT_TIMEOUT,
        f"{whose} has not answered CONNECT in {waited_s:.0f} s: its proxy is there; see its log",
    )
