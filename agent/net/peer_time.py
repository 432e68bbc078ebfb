"""What a peer may take for something, all in all: a clock that stands while it is our own turn."""

from __future__ import annotations

from agent.net.loop import Action, Loop, Timer


class PeerTime:
    """Calls `on_over` when `limit_s` seconds have passed between `run` and `stand`, in however many pieces."""

    __slots__ = ("_left_s", "_loop", "_on_over", "_timer")

    def __init__(self, loop: Loop, limit_s: float, on_over: Action) -> None:
        self._loop = loop
        self._left_s = limit_s
        self._on_over: Action | None = on_over
        self._timer: Timer | None = None

    def run(self) -> None:
        """It is the peer's turn. Nothing where it was already."""
        if self._timer is None:
            self._timer = self._loop.later(self._left_s, self._over)

    def stand(self) -> None:
        """It is ours."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._left_s = max(0.0, timer.at_s - self._loop.now())

    def end(self) -> None:
        """For good, and whom it would tell is not held."""
        self.stand()
        self._on_over = None

    def _over(self) -> None:
        self._timer = None
        if self._on_over is not None:
            self._on_over()
