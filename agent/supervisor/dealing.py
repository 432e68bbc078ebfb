"""Deals out the listeners: who of the workers on duty accepts on whose, when one comes, dies, hangs, or is to end.

The control process holds every listener too, so that a queue survives its worker. Who is on duty is the crew's
business; which moves follow from that the roster says, and here they are made.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence

from agent.channel import Listeners, Release, Stats
from agent.model.listener import ROWS, Datagrams, Listener
from agent.supervisor.queues import Queues, Rings
from agent.supervisor.ring_readers import RingReaders
from agent.supervisor.roster import Grant, Move, Roster
from agent.supervisor.roster import Release as Released
from agent.supervisor.worker_link import WorkerLink

log = logging.getLogger(__name__)

SEND_AGAIN_S = 0.2
QUEUE_LOOKS = 4
"""How often queues are looked at before their limit is over."""


class Dealer:
    """The listeners of `count` owners; `on_duty` are the workers by slot, kept true by who has them.

    `stall_s`: connections that wait at a listener for so long get one more worker. `return_s`: a worker that hung, and
    speaks again, gets its listeners back after so long, where somebody else has them.
    """

    def __init__(
        self, count: int, on_duty: Mapping[int, WorkerLink], *, stall_s: float, return_s: float
    ) -> None:
        self._on_duty = on_duty
        self._roster = Roster(count)
        self.listeners: dict[int, dict[str, socket.socket]] = {owner: {} for owner in range(count)}
        self.queues = Queues(self.listeners, stall_s)
        self.ring_readers = RingReaders()
        self._step_s, self._return_s = stall_s / QUEUE_LOOKS, return_s
        self._stood_in: dict[int, tuple[WorkerLink, Stats | None, float]] = {}
        """Workers whose listeners others have, as they hung: with the last they said, and when."""

    def hold_syns(self, rings: Rings) -> None:
        self.queues.rings = self.ring_readers.rings = rings

    def complete(self, make_listener: Callable[[Listener | Datagrams], socket.socket]) -> None:
        """Have every listener there that no worker had."""
        for socks in self.listeners.values():
            for row in ROWS:
                if row.name not in socks:
                    socks[row.name] = make_listener(row)

    def close(self) -> None:
        for socks in self.listeners.values():
            for sock in socks.values():
                sock.close()
        self.ring_readers.close()

    # -- what becomes of workers

    def found(self, link: WorkerLink) -> None:
        """The listeners of a worker that was there already become ours to hold as well."""
        for owner, socks in link.listeners.items():
            ours = self.listeners.get(owner)
            for name, sock in socks.items():
                if ours is None or name in ours:
                    sock.close()
                else:
                    ours[name] = sock

    def adopted(self) -> None:
        """Those on duty were found, all at once, with the listeners that they have."""
        self._carry_out(self._roster.adopted({slot: link.owners for slot, link in self._on_duty.items()}))

    def arrived(self, slot: int) -> None:
        """A worker on duty may accept from now on; again: it has not changed anything."""
        if slot not in self._roster.alive:
            self._carry_out(self._roster.arrived(slot))

    def departed(self, link: WorkerLink, *, is_leaving: bool = False) -> None:
        """It is not on duty any more: first somebody else serves its queue.

        `is_leaving`: it is there yet, and accepts until it is told not to.
        """
        moves = self._roster.died(link.slot)
        if is_leaving and self.ring_readers.is_one_alone:
            # Whoever answers for a connection must be the one that accepts it.
            for move in moves:
                link.send(Release(move.owner))
        self._carry_out(moves)

    def send_again(self, link: WorkerLink, owner: int) -> None:
        """Its listeners did not arrive. Meanwhile their queue is not lost, for they are held here too."""

        def again() -> None:
            if self._on_duty.get(link.slot) is link and link.slot in self._roster.serving.get(owner, ()):
                self._grant(link, owner)

        asyncio.get_running_loop().call_later(SEND_AGAIN_S, again)

    async def watch_queues(self, is_over: Callable[[], bool]) -> None:
        """Have a queue that nobody takes from served by one more worker."""
        while not is_over():
            await asyncio.sleep(self._step_s)
            self._give_back()
            for owner in self.queues.stalled(self._step_s):
                log.warning("connections wait at the listeners of worker %d: another serves them too", owner)
                self._stand_in(owner)

    # -- moves

    def _carry_out(self, moves: Sequence[Move]) -> None:
        # First who lets go: of two that serve an owner each would have what the other dials to itself.
        for move in sorted(moves, key=lambda move: isinstance(move, Grant)):
            link = self._on_duty.get(move.slot)
            if link is None:
                continue
            if isinstance(move, Grant):
                self._grant(link, move.owner)
            else:
                link.send(Release(move.owner))

    def _grant(self, link: WorkerLink, owner: int) -> None:
        fds = {name: sock.fileno() for name, sock in self.listeners[owner].items()}
        fds |= self.ring_readers.beside(link, owner)
        link.send(Listeners(owner, tuple(fds)), list(fds.values()))

    def _stand_in(self, owner: int) -> None:
        if not self.ring_readers.is_one_alone:
            self._carry_out(self._roster.stalled(owner))
            return
        # Whoever answers for a connection must be the one that accepts it: so one worker alone.
        moves = self._roster.stalled(owner, is_alone=True)
        link = self._on_duty.get(owner)
        if moves and link is not None and Released(owner, owner) in moves:
            self._stood_in[owner] = link, link.stats, asyncio.get_running_loop().time()
        self._carry_out(moves)

    def _give_back(self) -> None:
        """To those that hung and have come round."""
        now_s = asyncio.get_running_loop().time()
        for owner, (link, last, since_s) in tuple(self._stood_in.items()):
            if self._on_duty.get(owner) is not link:
                del self._stood_in[owner]
            elif link.stats is not last and now_s - since_s >= self._return_s:
                del self._stood_in[owner]
                log.info("%s has come round: it serves its listeners again", link)
                self._carry_out(self._roster.arrived(owner))
