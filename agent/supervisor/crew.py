"""Keeps the workers: adopts those that are there, starts the others, replaces the dead and those that hang.

A worker is on duty in a slot, or it retires (`retirement`): it serves until its successor does, then hands over what
is live and drains, and is told of state and counted until it is gone. Until `open_gates` a new worker gets no listeners
(`dealing`); one that was found goes on with what it has. From then on `brief` sends the full state first.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from agent import channel
from agent.channel import ChannelError, Message
from agent.fd_limit import told
from agent.model.listener import Datagrams, Listener
from agent.supervisor.dealing import Dealer
from agent.supervisor.patience import awake_s, catch_up, in_turn, longer, within
from agent.supervisor.process import END_PATIENCE_S, UNKNOWN
from agent.supervisor.queues import Queues, Rings
from agent.supervisor.recruiter import Recruiter, drop_name
from agent.supervisor.retirement import Retirement
from agent.supervisor.ring_readers import RingReaders
from agent.supervisor.worker_link import WorkerLink
from redirect.spawn import Cause, ChildFailed

log = logging.getLogger(__name__)

# A worker that lived for less did not get to work: its next start waits longer.
STEADY_S = 10.0
OUTPUTS = (1, 2)
"""What workers that were started by this process print to, and so do those that are adopted."""
SILENCE_LOOKS = 10
"""How often it is looked at before its limit is over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When patience with a worker ends."""

    silence_s: float = 10.0
    """It reports every second; one that says nothing for so long hangs."""
    stall_s: float = 1.0
    """Connections that wait at a listener for so long get one more worker."""
    drain_s: float = 5.0
    """What live connections have left when their worker retires and they stay with it."""
    hand_over_s: float = 5.0
    """How long a worker that retires waits for what cannot move at once, as a handshake that is under way."""
    return_s: float = 5.0
    """A worker that hung, and speaks again, gets its listeners back after so long, where somebody else has them."""


class Crew:
    """The workers of one agent.

    `reported` hears their figures, `ended` that there will be no more of them, `wanted` what they ask for.
    """

    def __init__(
        self,
        recruiter: Recruiter,
        count: int,
        *,
        make_listener: Callable[[Listener | Datagrams], socket.socket],
        brief: Callable[[WorkerLink], None],
        reported: Callable[[WorkerLink, channel.Stats], None],
        ended: Callable[[WorkerLink], None],
        limits: Limits = Limits(),
        wanted: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:
        self._recruiter = recruiter
        self._count = count
        self._make_listener = make_listener
        self._brief = brief
        self._ended = ended
        self._limits = limits
        self._on_duty: dict[int, WorkerLink] = {}
        self._dealer = Dealer(count, self._on_duty, stall_s=limits.stall_s, return_s=limits.return_s)
        self._retirement = Retirement(self._on_duty, limits.hand_over_s, limits.drain_s)
        self._gone: list[WorkerLink] = []
        self._pauses_s: dict[int, float] = {}
        self._chores = asyncio.Queue[Callable[[], Awaitable[None]]]()
        self._one_lost = asyncio.Event()
        self._gates_open = False
        self.reported = reported
        self.wanted = wanted
        self.restarts = 0
        self.stopping = False

    @property
    def links(self) -> tuple[WorkerLink, ...]:
        """Those on duty."""
        return tuple(self._on_duty.values())

    @property
    def retiring(self) -> tuple[WorkerLink, ...]:
        return tuple(self._retirement.links)

    @property
    def hand_overs(self) -> list[dict[str, object]]:
        """The last ones, as `ztun status -o json` has them."""
        return list(self._retirement.hand_overs)

    @property
    def everyone(self) -> tuple[WorkerLink, ...]:
        return (*self._on_duty.values(), *self._retirement.links)

    @property
    def queues(self) -> Queues:
        return self._dealer.queues

    @property
    def ring_readers(self) -> RingReaders:
        return self._dealer.ring_readers

    def listeners(self) -> dict[str, socket.socket]:
        """The first owner's, by name: what the sockmap's slots hold, for want of every owner's."""
        return self._dealer.listeners[0]

    def every_owners(self) -> list[dict[str, socket.socket]]:
        """The listeners of each owner, by name."""
        return [self._dealer.listeners[owner] for owner in range(self._count)]

    def hold_syns(self, rings: Rings) -> None:
        """Before `muster`: owners have rings as well (this object's from now on), each read by one worker at a time."""
        self._dealer.hold_syns(rings)

    # -- what the agent asks for

    async def muster(self) -> None:
        """Have every worker there: adopt, else start. Raises ChildFailed, OSError when there is none at all."""
        for link in await self._recruiter.find(self):
            self._adopt(link)
        self._dealer.complete(self._make_listener)
        self._dealer.adopted()
        vacant = [slot for slot in range(self._count) if slot not in self._on_duty]
        failures = await asyncio.gather(*map(self._hire, vacant), return_exceptions=True)
        for slot, failure in zip(vacant, failures, strict=True):
            if isinstance(failure, OSError | ChildFailed) and self._on_duty:
                log.error("%s", told(failure))
                self._chores.put_nowait(partial(self._replace, slot))
            elif isinstance(failure, BaseException):
                raise failure

    def open_gates(self) -> None:
        """The first complete state is there: brief everyone, let those who waited accept."""
        self._gates_open = True
        for link in self.everyone:
            self._brief(link)
        for link in self.links:
            self._dealer.arrived(link.slot)
        self._relieve()

    async def keep(self) -> None:
        """Replace workers that are lost and watch for those that hang, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dealer.watch_queues(lambda: self.stopping))
            group.create_task(self._watch_silence())
            group.create_task(self._retirement.run())
            while True:
                group.create_task(in_turn(await self._chores.get()))

    def broadcast(self, message: Message) -> None:
        for link in self.everyone:
            self.tell(link, message)

    def tell(self, link: WorkerLink, message: Message) -> None:
        """Tell one worker, as far as its build knows what is meant; where that binds, it drains instead."""
        if link.knows(type(message)):
            link.send(message)
        elif message.BINDS and not link.is_draining:
            log.warning("%s is of a build that does not know %s: it drains", link, type(message).__name__)
            self._retirement.drain(link)

    async def applied(self, revision: int, patience_s: float) -> None:
        """Return when every worker has applied this revision; one that does not follow is killed."""
        await asyncio.gather(*(self._follows(link, revision, patience_s) for link in self.everyone))

    async def ask_all(self, what: str) -> list[object]:
        """The answers of all workers that give one."""
        links = self.everyone
        answers = await asyncio.gather(*(link.ask(what) for link in links), return_exceptions=True)
        for link, answer in zip(links, answers, strict=True):
            if isinstance(answer, TimeoutError | ChannelError):
                log.warning("%s did not answer %r: %s", link, what, answer)
            elif isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def drain(self, deadline_s: float) -> None:
        """Stop every worker; live connections may finish until the deadline."""
        self.stopping = True
        for link in self.everyone:
            self._retirement.drain(link, deadline_s)
        try:
            await within(deadline_s + END_PATIENCE_S, self._all_gone)
        except TimeoutError:
            for link in self.everyone:
                log.warning("%s did not end in time: killing it", link)
                link.kill()
        # Killed ones are lost a moment later.
        with suppress(TimeoutError):
            await within(END_PATIENCE_S, self._all_gone)
        await asyncio.gather(*map(self._see_off, self._gone))

    def close(self) -> None:
        """Let go of everything without ending it: workers go on serving."""
        for link in self.everyone:
            link.close()
        self._dealer.close()

    # -- what workers do (Hears)

    def leaving(self, link: WorkerLink) -> None:
        """Somebody ends this worker alone: it serves until its successor is there."""
        if self._on_duty.get(link.slot) is link and not self.stopping:
            log.info("%s was asked to end: starting its successor", link)
            del self._on_duty[link.slot]
            self._retirement.add(link)
            self._dealer.departed(link, is_leaving=True)
            self._chores.put_nowait(partial(self._replace, link.slot))

    def not_known(self, link: WorkerLink, kind: str, *, binds: bool) -> None:
        """A worker of another build does not know what it was told."""
        if not binds:
            log.info("%s does not know %s, and goes on", link, kind)
            return
        log.warning("%s does not know %s, which binds: it drains", link, kind)
        self.leaving(link)
        link.is_draining = True

    def unserved(self, link: WorkerLink, owner: int) -> None:
        self._dealer.send_again(link, owner)

    def lost(self, link: WorkerLink) -> None:
        """It is gone, or cannot be told of policy any more: then it must not serve by the old one."""
        if not link.is_draining:
            link.kill()
        if link not in self.everyone:
            return  # who was about to enlist it sees that it is lost
        was_on_duty = self._on_duty.get(link.slot) is link
        if was_on_duty:
            del self._on_duty[link.slot]
        else:
            self._retirement.remove(link)
        self._ended(link)
        self._one_lost.set()
        if self.stopping:
            self._gone.append(link)
            return
        self._chores.put_nowait(partial(self._see_off, link))
        if was_on_duty:
            # First somebody serves its queue, then its successor is started.
            self._dealer.departed(link)
            lived_s = asyncio.get_running_loop().time() - link.since_s
            pause_s = 0.0 if lived_s >= STEADY_S else self._pauses_s.get(link.slot, 0.0)
            self._pauses_s[link.slot] = longer(pause_s)
            self._chores.put_nowait(partial(self._replace, link.slot))

    # -- one worker after another

    def _adopt(self, link: WorkerLink) -> None:
        self._dealer.found(link)
        if link.is_lost:
            self._chores.put_nowait(partial(self._see_off, link))
            return
        is_ours = link.version == self._recruiter.version and not link.is_draining
        self.ring_readers.found(link, is_ours=is_ours)
        if is_ours and link.slot < self._count and link.slot not in self._on_duty:
            log.info("adopted %s", link)
            link.send(channel.Output(), OUTPUTS)
            self.ring_readers.tell(link)
            self._on_duty[link.slot] = link
        else:
            log.info("%s is of another version or configuration, or drains: it retires", link)
            self._retirement.add(link)

    async def _hire(self, slot: int) -> None:
        link = await self._recruiter.start(slot, self)
        self._on_duty[slot] = link
        self.ring_readers.tell(link)
        if link.is_lost:
            self.lost(link)
        elif self.stopping:
            self._retirement.drain(link, 0.0)
        elif self._gates_open:
            self._brief(link)
            self._dealer.arrived(slot)
            self._relieve()

    async def _replace(self, slot: int) -> None:
        while slot not in self._on_duty and not self.stopping:
            await asyncio.sleep(self._pauses_s.get(slot, 0.0))
            try:
                await self._hire(slot)
                self.restarts += 1
            except (OSError, ChildFailed) as error:
                pause_s = self._pauses_s[slot] = longer(self._pauses_s.get(slot, 0.0))
                log.error("%s; trying again in %.2g s", told(error), pause_s)

    def _relieve(self) -> None:
        """Once every slot has its worker, those that retire may go."""
        if len(self._on_duty) == self._count:
            self._retirement.relieve()

    async def _see_off(self, link: WorkerLink) -> None:
        # One that drains has some time between its last word and its end; the others were ended when they were lost.
        failure = await (link.process.end() if link.is_draining else link.process.ended())
        link.process.close()
        drop_name(link.path)
        if failure is UNKNOWN and link.is_draining:
            why = "after its hand-over" if link.has_handed_over else "as it was told to drain"
            log.info("%s has ended, %s", link, why)
            return
        log.log(
            logging.INFO if failure.cause is Cause.ENDED else logging.WARNING, "%s is gone: %s", link, failure
        )
        if failure.details:
            log.debug("%s: %s", link, failure.details)

    async def _follows(self, link: WorkerLink, revision: int, patience_s: float) -> None:
        try:
            await within(patience_s, lambda: link.reached(revision))
        except TimeoutError:
            log.error("%s does not apply the state it was sent: killing it", link)
            link.kill()

    async def _all_gone(self) -> None:
        while self.everyone:
            self._one_lost.clear()
            await self._one_lost.wait()

    # -- those that hang

    async def _watch_silence(self) -> None:
        """Their tunnels stand still, and peers would wait for a ping's time-out."""
        loop, step_s = (asyncio.get_running_loop(), self._limits.silence_s / SILENCE_LOOKS)
        while True:
            began_s = loop.time()
            await asyncio.sleep(step_s)
            passed_s = awake_s(loop.time() - began_s, step_s)
            await catch_up()
            for link in self.everyone:
                link.silent_s += passed_s
                if link.silent_s > self._limits.silence_s:
                    log.error("%s was silent for %.3g s: killing it", link, link.silent_s)
                    link.kill()
