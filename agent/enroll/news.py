"""Collects what is heard between turns: of the node's links, of pods' namespaces, of the mesh.

Bursts melt into one piece of news that is as old as its first part. Applying everything anew is spaced wider than
looking: a look is cheap, and it closes what must not stay open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from redirect.host_addresses import Heard
from redirect.host_addresses import News as Kind

APPLY_SPACING_S = 0.5
DOUBTS_A_TURN = 4
"""A new interface does not wait until all pods have been looked at."""
DOUBT_ALL_SPACING_S = 5.0
"""Looking at every pod anew takes a while, and a pod can make the kernel lose messages."""
REST_SHARE = 3.0
"""Turns take a quarter of the time at most, however much is heard: each owes three times its length of rest."""
REST_LIMIT_S = 0.15
"""A turn may have waited for the kernel more than it worked: while a namespace is taken down nothing is listed."""
CREDIT_S = 1.0
"""So much rest may be owed before it is taken: a handful of turns in a row is not slowed down."""


@dataclass(frozen=True, slots=True)
class News:
    """What a turn follows. `told_s`: when the first of it was heard (time.monotonic), None: nothing was.

    `doubted`: numbers of namespaces in which something changed. `is_of_node`: links, addresses or filters of the node
    did, so that everything is to be applied again, also where nothing seems to differ.
    """

    told_s: float | None = None
    doubted: frozenset[int] = frozenset()
    is_of_node: bool = True


class NewsDesk:
    """What was heard since the last turn."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._told_s: float | None = None
        self._newcomer = asyncio.Event()
        self._doubted: dict[int, None] = {}
        """In the order in which they were heard of first."""
        self._is_lossy = False
        self._is_of_node = False
        self._applied_s = float("-inf")
        self._doubted_all_s = float("-inf")
        self._owed_s = 0.0
        self._turned_s = monotonic()

    def hear(
        self,
        heard: Heard,
        namespaces: Collection[int],
        known_links: Collection[int],
        interfaces: Collection[int] = (),
    ) -> None:
        """Of the kernel. `namespaces`: the numbers of those in which news count; `known_links`: no newcomers.

        `interfaces`: those that have programs of ours. What happens to others is looked at, but there is nothing to be
        applied anew for it.
        """
        concerned = sorted(heard.elsewhere.intersection(namespaces))
        if not concerned and not heard.news:
            return
        if self._told_s is None:
            self._told_s = self._monotonic()
        self._doubted.update(dict.fromkeys(concerned))
        self._is_of_node |= _concerns(heard, interfaces)
        self._is_lossy |= heard.is_lossy
        self._wake.set()
        if not heard.links <= frozenset(known_links):
            # It may lead to a wished pod and is open. No pod can make one, so no pod can keep us busy this way.
            self._newcomer.set()

    def wake(self) -> None:
        """Something else changed: mesh state, certificates."""
        self._wake.set()

    def hurry(self) -> None:
        """A pod's start waits for the next turn: nobody rests before it. Only the node's own runtime can say so."""
        self._wake.set()
        self._newcomer.set()

    async def wait(self, patience_s: float | None) -> None:
        """Until something is heard, or for so long."""
        now_s = self._monotonic()
        owed = [] if patience_s is None else [patience_s]
        if self._is_of_node:
            owed.append(max(0.0, self._applied_s + APPLY_SPACING_S - now_s))
        if self._is_lossy:
            owed.append(max(0.0, self._doubted_all_s + DOUBT_ALL_SPACING_S - now_s))
        patience_s = min(owed, default=None)
        try:
            async with asyncio.timeout(patience_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def take(self, namespaces: Collection[int], *, is_asked: bool = False) -> News:
        """All of it, for a turn. `is_asked`: somebody waits for the turn, so everything is applied in it."""
        now_s = self._monotonic()
        is_due = is_asked or (self._is_of_node and now_s - self._applied_s >= APPLY_SPACING_S)
        if self._is_lossy and now_s - self._doubted_all_s >= DOUBT_ALL_SPACING_S:
            self._is_lossy, self._doubted_all_s = False, now_s
            self._doubted.update(dict.fromkeys(sorted(namespaces)))
        doubted = tuple(self._doubted)[:DOUBTS_A_TURN]
        for nsid in doubted:
            del self._doubted[nsid]
        news = News(self._told_s, frozenset(doubted), is_due)
        if is_due:
            self._applied_s = now_s
            self._is_of_node = False
        self._told_s = None
        self._newcomer.clear()
        if not self._doubted:
            self._wake.clear()
        return news

    async def rest(self, took_s: float) -> None:
        """Leave the processor to others after a turn that took so long; until an interface is new."""
        # An event that is set already does not let others run.
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(self.pause_s(took_s)):
                await self._newcomer.wait()
        except TimeoutError:
            return

    def pause_s(self, took_s: float) -> float:
        """How long to rest after a turn that took so long."""
        now_s = self._monotonic()
        rested_s = max(0.0, now_s - self._turned_s - took_s)
        self._owed_s = max(0.0, self._owed_s - rested_s) + min(took_s * REST_SHARE, REST_LIMIT_S)
        self._turned_s = now_s
        return min(max(0.0, self._owed_s - CREDIT_S), REST_LIMIT_S)


def _concerns(heard: Heard, interfaces: Collection[int]) -> bool:
    """Whether what is applied can have changed."""
    if Kind.ADDRESSES in heard.news or heard.is_lossy or not heard.touched:
        return bool(heard.news)
    return not heard.touched.isdisjoint(interfaces)
