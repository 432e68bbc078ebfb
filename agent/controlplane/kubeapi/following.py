"""Fills the mirror from the API for as long as it runs: a watcher for each kind, each in a thread of its own.

Whatever the API does, what was mirrored stays: an outage takes nothing away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from random import Random

from agent.controlplane.kubeapi.mirror import Mirror
from agent.controlplane.kubeapi.stored import KINDS, Kind, Stored, resource_of
from agent.kubernetes.access import Access
from agent.kubernetes.reflector import Change, Reflector
from agent.kubernetes.watch_threads import run_all
from agent.kubernetes.watcher import Watcher

SAY_S = 10.0
"""How often it is said what is waited for."""
GATHER_S, GATHER_TURNS = 0.01, 5
"""Changes that follow each other so closely are told together; none waits for more turns than that."""
LOOK_S = 60.0
"""Nobody else has business in the directory; whoever was there all the same is found out so soon."""

log = logging.getLogger(__name__)


class Following:
    """`run` until cancelled; `whole` is set when everything was mirrored once."""

    def __init__(self, way: Callable[[], Access], mirror: Mirror, rng: Random) -> None:
        self.mirror = mirror
        self.whole = asyncio.Event()
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers = [
            Watcher(Reflector(resource_of(kind), rng), way, self._heard_of(kind)) for kind in KINDS
        ]

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await run_all(self._watchers, self._say_what_is_missing())

    async def notices(self) -> AsyncGenerator[frozenset[str] | None, None]:
        """Which files have changed, as `read.notices.watch` tells it, and without asking the kernel."""
        looked_s = time.monotonic()
        while True:
            left_s = looked_s + LOOK_S - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._news.wait()
            except TimeoutError:
                looked_s = time.monotonic()
                yield None
                continue
            await self._gather()
            self._news.clear()
            yield self.mirror.take_touched()

    async def _gather(self) -> None:
        before = 0
        for _ in range(GATHER_TURNS):
            if before == (before := self.mirror.touched):
                return
            await asyncio.sleep(GATHER_S)

    async def _say_what_is_missing(self) -> None:
        while not self.whole.is_set():
            try:
                async with asyncio.timeout(SAY_S):
                    await self.whole.wait()
            except TimeoutError:
                problems = "; ".join(dict.fromkeys(self._problems())) or "they are being listed"
                log.warning(
                    "nothing is served before all of these are known: %s (%s)",
                    ", ".join(self.mirror.missing),
                    problems,
                )

    def _problems(self) -> Iterator[str]:
        return filter(None, (watcher.problem for watcher in self._watchers))

    def _heard_of(self, kind: Kind) -> Callable[[Sequence[Change[Stored]]], None]:
        def heard(changes: Sequence[Change[Stored]]) -> None:
            assert self._loop is not None
            if self.mirror.hear(kind, changes):
                self._loop.call_soon_threadsafe(self._news.set)
            if self.mirror.is_whole and not self.whole.is_set():
                self._loop.call_soon_threadsafe(self.whole.set)

        return heard
