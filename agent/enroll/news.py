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

    `doubted`: numbers of namespaces in which something changed. `touched`: captured interfaces that did, which are
    applied again, also where nothing seems to differ; `is_of_node`: so is everything.
    """

    told_s: float | None = None
    doubted: frozenset[int] = frozenset()
    is_of_node: bool = True
    touched: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Interfaces:
    """Those that news are judged by: `captured` for pods, our `own`, and the `bridges` that captured ones are ports of.

    `known`: all that were there at the last look.
    """

    captured: frozenset[int] = frozenset()
    own: frozenset[int] = frozenset()
    bridges: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()

    def are_touched(self, heard: Heard) -> bool:
        return not heard.touched.isdisjoint(self.captured | self.own | self.bridges)


@dataclass(frozen=True, slots=True)
class PassersBy:
    """Interfaces that are none of ours, as far as is known, and when the first of them was heard of."""

    ifindexes: frozenset[int]
    told_s: float


class NewsDesk:
    """What was heard since the last turn."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._told_s: float | None = None
        self._newcomer = asyncio.Event()
        self._doubted: dict[int, None] = {}
        """In the order in which they were heard of first."""
        self._unknown: set[int] = set()
        """Namespaces that no wished pod was known to be in when they were heard of, since a look began."""
        self._touched: frozenset[int] = frozenset()
        self._passers_by: frozenset[int] = frozenset()
        self._is_turn_due = False
        """Whether there is more than passers-by."""
        self._is_lossy = False
        self._is_of_node = False
        self._applied_s = float("-inf")
        self._doubted_all_s = float("-inf")
        self._owed_s = 0.0
        self._turned_s = monotonic()

    def hear(self, heard: Heard, namespaces: Collection[int], interfaces: Interfaces = Interfaces()) -> None:
        """Of the kernel. `namespaces`: the numbers of those in which news count."""
        concerned = sorted(heard.elsewhere.intersection(namespaces))
        self._unknown |= heard.elsewhere.difference(namespaces)
        if not concerned and not heard.news:
            return
        if self._told_s is None:
            self._told_s = self._monotonic()
        self._doubted.update(dict.fromkeys(concerned))
        self._is_lossy |= heard.is_lossy
        if _is_of_links(heard) and not interfaces.are_touched(heard):
            self._passers_by |= heard.touched
            self._is_turn_due |= bool(concerned)
        else:
            self._is_turn_due = True
            self._is_of_node |= _concerns_all(heard, interfaces)
            self._touched |= heard.touched & interfaces.captured
        self._wake.set()
        if not heard.links <= interfaces.known:
            # It may lead to a wished pod and is open. No pod can make one, so no pod can keep us busy this way.
            self._newcomer.set()

    def wake(self) -> None:
        """Something else changed: mesh state, certificates."""
        self._is_turn_due = True
        self._wake.set()

    def hurry(self) -> None:
        """A pod's start waits for the next turn: nobody rests before it. Only the node's own runtime can say so."""
        self.wake()
        self._newcomer.set()

    def looks(self) -> None:
        """A look begins: it sees all that was heard until now."""
        self._unknown.clear()

    def found(self, namespaces: Collection[int]) -> None:
        """A look has ended, and pods are known to be in these: what changed in one meanwhile it may not have seen."""
        changed = self._unknown.intersection(namespaces)
        self._unknown.clear()
        if changed:
            self._doubted.update(dict.fromkeys(sorted(changed)))
            self.wake()

    def passers_by(self) -> PassersBy | None:
        """What was heard, where it is of nothing else; it is heard no longer. None: a turn is due."""
        if self._is_turn_due or self._told_s is None or not self._passers_by:
            return None
        heard = PassersBy(self._passers_by, self._told_s)
        self._forget()
        return heard

    def recall(self, heard: PassersBy) -> None:
        """One of them leads to a wished pod: a turn follows."""
        self._told_s = heard.told_s if self._told_s is None else min(heard.told_s, self._told_s)
        self.wake()

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
        news = News(self._told_s, frozenset(doubted), is_due, self._touched)
        if is_due:
            self._applied_s = now_s
            self._is_of_node = False
        self._touched = frozenset()
        self._forget()
        if self._doubted:
            self.wake()
        return news

    def _forget(self) -> None:
        self._told_s = None
        self._passers_by = frozenset()
        self._is_turn_due = False
        self._newcomer.clear()
        self._wake.clear()

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


def _is_of_links(heard: Heard) -> bool:
    """Whether it is of some links, and of nothing else of the node."""
    return bool(heard.touched) and not heard.is_lossy and Kind.ADDRESSES not in heard.news


def _concerns_all(heard: Heard, interfaces: Interfaces) -> bool:
    """Whether anything that is applied can have changed: more than captured interfaces."""
    if not _is_of_links(heard):
        return bool(heard.news)
    if Kind.FILTERS in heard.news:
        # What a qdisc holds goes with it, and who attached it is known by the whole.
        return interfaces.are_touched(heard)
    return not heard.touched.isdisjoint(interfaces.own)
