"""Time under the test's control: a wall clock that stands still, waits that end when it is advanced."""

from __future__ import annotations

import asyncio
import time


class FakeClock:
    """Calls give seconds since the epoch. `wait` is for `Keeper(wait=...)`; only `advance` moves time."""

    def __init__(self, now: float | None = None) -> None:
        self.now = float(int(time.time())) if now is None else now
        self._waiting: tuple[float, asyncio.Event] | None = None
        self._idle = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        self._waiting = (self.now + timeout_s, event)
        self._idle.set()
        await event.wait()
        self._idle.clear()

    @property
    def next_wake_s(self) -> float:
        """How long the one who waits now means to wait."""
        assert self._waiting is not None
        return self._waiting[0] - self.now

    async def until_idle(self) -> None:
        """Everything that can run has run, and the one who uses `wait` waits again."""
        for _ in range(10):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await self._idle.wait()

    async def advance(self, seconds: float) -> None:
        """Move time and let what is due happen."""
        await self.until_idle()
        self.now += seconds
        if self._waiting is not None and self._waiting[0] <= self.now:
            self._idle.clear()
            self._waiting[1].set()
        await self.until_idle()


class Sleeps:
    """For `XdsClient(sleep=...)`: records each delay and moves the clock by it.

    The `limit`th sets `exhausted` and blocks until `released`.
    """

    def __init__(self, clock: FakeClock, limit: int = 1_000_000) -> None:
        self.clock = clock
        self.limit = limit
        self.delays: list[float] = []
        self.exhausted = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, delay_s: float) -> None:
        self.delays.append(delay_s)
        self.clock.now += delay_s
        if len(self.delays) >= self.limit:
            self.exhausted.set()
            await self.released.wait()
        await asyncio.sleep(0)
