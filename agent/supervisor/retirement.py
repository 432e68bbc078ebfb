"""Workers that retire: each gives what is live to its successor, one after the other, and then drains.

Successors are started and briefed first, all of them: what two processes hand over waits while a third one starts.
Where a successor fails, another worker takes what is left, or the same one a moment later, as it may only have stood
still; a worker that cannot hand over (an older build), or has nobody who takes, drains as it is. Until it is gone it
is told of state and certificates, and judges by them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import closing

from agent.channel import ChannelError, Drain, HandedOver, HandOver
from agent.supervisor.patience import within
from agent.supervisor.worker_link import WorkerLink

log = logging.getLogger(__name__)

MARGIN_S = 60.0
"""How much longer than its patience a worker may take to say what became of a hand-over: it goes on while things move.

Who stands still is noticed otherwise, and much sooner.
"""
MOST_TRIES = 3
MOST_ROUNDS, ROUND_PAUSE_S = 4, 0.5
"""So often all who may take are asked: who stood still is alive, and may take a moment later."""
REMEMBERED = 16


class Retirement:
    """The workers that retire. `on_duty` are those that serve, by slot, kept true by who has them.

    `patience_s`: for what cannot move at once. `drain_s`: what is left has so long.
    """

    def __init__(self, on_duty: Mapping[int, WorkerLink], patience_s: float, drain_s: float) -> None:
        self._on_duty = on_duty
        self._patience_s, self._drain_s = patience_s, drain_s
        self.links: list[WorkerLink] = []
        self.hand_overs: deque[dict[str, object]] = deque(maxlen=REMEMBERED)
        """The last ones, for `ztun status`."""
        self._tries: dict[WorkerLink, int] = {}
        self._waiting: set[WorkerLink] = set()
        """For another one to take what they have: the one before has failed."""
        self._due = asyncio.Queue[WorkerLink]()

    def add(self, link: WorkerLink) -> None:
        self.links.append(link)

    def remove(self, link: WorkerLink) -> None:
        self.links.remove(link)
        self._tries.pop(link, None)
        self._waiting.discard(link)

    def relieve(self) -> None:
        """Every slot has its worker, which serves: those that retire may go."""
        for link in self.links:
            if link in self._tries and link not in self._waiting:
                continue
            self._tries.setdefault(link, 0)
            self._waiting.discard(link)
            if self._takers(link):
                self._due.put_nowait(link)
            elif not link.is_draining:
                why = next((obstacle(link, taker) for taker in self._on_duty.values()), "")
                log.info("%s does not hand over (%s): it drains for %g s", link, why, self._drain_s)
                self.drain(link)

    def drain(self, link: WorkerLink, drain_s: float | None = None) -> None:
        """Now, with all that it has."""
        link.is_draining = True
        link.send(Drain(self._drain_s if drain_s is None else drain_s))

    async def run(self) -> None:
        """One after the other, until cancelled."""
        while True:
            link = await self._due.get()
            if link in self.links:
                await self._relieve(link)

    async def _relieve(self, link: WorkerLink) -> None:
        self._tries[link] += 1
        loop = asyncio.get_running_loop()
        until_s = None
        for _ in range(MOST_ROUNDS):
            tried: set[WorkerLink] = set()
            while takers := [taker for taker in self._takers(link) if taker not in tried]:
                tried.add(takers[0])
                reason = await self._hand_over(link, takers[0])
                if link not in self.links or not reason:
                    return  # it is gone, or has given
                log.warning("%s stops handing over to %s: %s", link, takers[0], reason)
                until_s = until_s or loop.time() + self._drain_s
            if until_s is None or not self._takers(link) or loop.time() + ROUND_PAUSE_S >= until_s:
                break
            await asyncio.sleep(ROUND_PAUSE_S)
            if link not in self.links:
                return
        log.warning("%s has nobody to hand over to: it drains for %g s", link, self._drain_s)
        self.drain(link)
        if self._tries[link] < MOST_TRIES:
            # When its successor has a successor, with what is left by then.
            self._waiting.add(link)

    def _takers(self, link: WorkerLink) -> list[WorkerLink]:
        """Who may take what it has: its successor, or where that fails, or there are fewer than before, another."""
        able = (taker for taker in self._on_duty.values() if not obstacle(link, taker))
        return sorted(able, key=lambda taker: taker.slot != link.slot)

    async def _hand_over(self, link: WorkerLink, taker: WorkerLink) -> str:
        """Why nothing came of it, or not all."""
        given, taken = socket.socketpair()
        with closing(given), closing(taken):
            try:
                await taker.take_over(taken.fileno())
            except (TimeoutError, ChannelError) as error:
                return f"it does not take: {error or 'no answer'}"
            link.is_draining = True
            link.send(HandOver(self._patience_s, self._drain_s), [given.fileno()])
        try:
            account = await within(self._patience_s + MARGIN_S, link.handed_over)
        except TimeoutError:
            return "it does not come to an end"
        if account is None:
            return ""  # it is gone
        link.has_handed_over = not account.failure
        log.info("%s has handed over to %s: %s", link, taker, in_words(account))
        self.hand_overs.append(row(link, taker, account))
        if account.left and not account.failure:
            log.info("%s drains what stays for %g s: %s", link, self._drain_s, counted(account.left))
        return account.failure


def obstacle(link: WorkerLink, taker: WorkerLink) -> str:
    """Why a worker cannot hand over to another one, if so."""
    if not link.formats:
        return "it is of a build that cannot"
    if not set(link.formats) & set(taker.formats):
        return f"it gives units of format {link.formats}, and the other takes {taker.formats}"
    return ""


def row(link: WorkerLink, taker: WorkerLink, account: HandedOver) -> dict[str, object]:
    return {
        "from_pid": link.pid,
        "to_pid": taker.pid,
        "moved": dict(account.moved),
        "left": dict(account.left),
        "took_s": account.took_s,
        "moved_s": account.moved_s,
        "values_bytes": account.values_bytes,
        "blobs_bytes": account.blobs_bytes,
        "longest_pause_s": account.pause_s,
        "failure": account.failure,
    }


def in_words(account: HandedOver) -> str:
    moved_s = account.moved_s or account.took_s
    return (
        f"{counted(account.moved) or 'nothing'} in {moved_s:.3f} s, none of it stood still for more than"
        f" {account.pause_s * 1000:.1f} ms; over after {account.took_s:.3f} s"
    )


def counted(rows: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in rows)
