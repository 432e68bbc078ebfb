"""Keeps the workers: adopts those that are there, starts the others, replaces the dead, deals out listeners.

The control process holds every listener too, so that a queue survives its worker. A listener that nobody takes
from for a second gets one more server; a worker that is silent for ten is ended. Until `open_gates` a worker
without state gets no listeners; an adopted one goes on with what it has. From then on `brief` sends the full
state first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import VERSION, channel
from agent.channel import ChannelError, Message
from agent.model.listener import LISTENERS, Listener
from agent.supervisor.process import Process
from agent.supervisor.roster import Grant, Move, Roster
from agent.supervisor.worker_link import WorkerLink
from redirect import spawn
from redirect.spawn import ChildFailed

log = logging.getLogger(__name__)

STALL_S = 1.0
STALL_POLL_S = 0.25
# Workers report every second; one that does not for so long hangs.
SILENCE_S = 10.0
RESTART_PAUSE_S = 0.05
RESTART_PAUSE_MAX_S = 5.0
# struct tcp_info: for a listener, tcpi_unacked (u32 at byte 24) is the length of its accept queue.
ACCEPT_QUEUE = struct.Struct("24xI")


class Crew:
    """The workers of one agent."""

    def __init__(
        self,
        directory: Path,
        count: int,
        options: dict[str, str],
        netns_paths: tuple[str | None, str | None],
        make_listener: Callable[[Listener], socket.socket],
        brief: Callable[[WorkerLink], None],
        on_stats: Callable[[WorkerLink, channel.Stats], None],
        drain_deadline_s: float,
    ) -> None:
        self._drain_deadline_s = drain_deadline_s
        self._version = f"{VERSION}+{hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]}"
        self._directory = directory
        self._count = count
        self._options = options
        self._netns_paths = netns_paths
        self._make_listener = make_listener
        self._brief = brief
        self._on_stats = on_stats
        self._roster = Roster(count)
        self._listeners: dict[int, dict[str, socket.socket]] = {owner: {} for owner in range(count)}
        self._links: dict[int, WorkerLink] = {}
        self._lost = asyncio.Queue[WorkerLink]()
        self._one_lost = asyncio.Event()
        self._questions = 0
        self._gates_open = False
        self._waiting: list[WorkerLink] = []
        self.restarts = 0
        self.stopping = False

    @property
    def links(self) -> tuple[WorkerLink, ...]:
        return tuple(self._links.values())

    def listeners(self) -> dict[str, socket.socket]:
        """The first owner's, by name: what the sockmap's slots hold (the rest share by SO_REUSEPORT)."""
        return self._listeners[0]

    async def muster(self) -> None:
        """Have every worker there: adopt, else start. Called once."""
        for path in self._directory.glob("worker-*.sock"):
            link = await self._adopt(path)
            if link is not None:
                self._links[link.slot] = link
        for socks in self._listeners.values():
            for row in LISTENERS:
                if row.name not in socks:
                    socks[row.name] = self._make_listener(row)
        for link in self.links:
            self._carry_out(self._roster.arrived(link.slot, link.owners))
        missing = [slot for slot in range(self._count) if slot not in self._links]
        started = await asyncio.gather(*map(self._start, missing), return_exceptions=True)
        links = [link for link in started if isinstance(link, WorkerLink)]
        failures = [failure for failure in started if isinstance(failure, BaseException)]
        if failures:
            # The others would outlive this process without ever having served.
            for link in links:
                link.kill()
                link.close()
            raise failures[0]
        for link in links:
            self._enlist(link.slot, link)

    def open_gates(self) -> None:
        """The first complete state is there: brief everyone, let those who waited accept."""
        self._gates_open = True
        for link in self.links:
            self._brief(link)
        for link in self._waiting:
            if not link.is_lost:
                self._carry_out(self._roster.arrived(link.slot))
        self._waiting.clear()

    async def keep(self) -> None:
        """Replace workers that are lost and watch for stalled queues, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._replace_lost())
            group.create_task(self._watch_queues())
            group.create_task(self._watch_silence())

    def broadcast(self, message: Message) -> None:
        for link in self.links:
            link.send(message)

    async def applied(self, revision: int, patience_s: float) -> None:
        """Return when every worker has applied this revision; one that does not follow is killed."""
        for link in self.links:
            try:
                async with asyncio.timeout(patience_s):
                    await link.reached(revision)
            except TimeoutError:
                link.kill()

    async def ask_all(self, what: str) -> list[object]:
        """The answers of all workers that give one."""
        answers = []
        for link in self.links:
            self._questions += 1
            try:
                answers.append(await link.ask(channel.Ask(self._questions, what), self._questions))
            except (TimeoutError, ChannelError) as error:
                log.warning("worker %d did not answer %r: %s", link.slot, what, error)
        return answers

    async def drain(self, deadline_s: float) -> None:
        """Stop every worker; live connections may finish until the deadline."""
        self.stopping = True
        self.broadcast(channel.Drain(deadline_s))
        try:
            async with asyncio.timeout(deadline_s + 2):
                while self._links:
                    self._one_lost.clear()
                    await self._one_lost.wait()
        except TimeoutError:
            for link in self.links:
                link.kill()
        for slot in range(self._count):
            self._path(slot).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything without ending it: workers go on serving."""
        for link in self.links:
            link.close()
        for socks in self._listeners.values():
            for sock in socks.values():
                sock.close()

    async def _adopt(self, path: Path) -> WorkerLink | None:
        """The worker behind a socket, with its listeners; one of another version or configuration drains."""
        try:
            link = await WorkerLink.connect(path, self._on_stats, self._on_lost)
        except (OSError, ChannelError, TimeoutError):
            return None
        self._take_fds(link)
        if link.version == self._version and link.slot < self._count:
            log.info("adopted worker %d (pid %d)", link.slot, link.pid)
            return link
        log.info("worker %d (pid %d) is of another version or configuration: it drains", link.slot, link.pid)
        link.send(channel.Drain(self._drain_deadline_s))
        link.close()
        return None

    def _path(self, slot: int) -> Path:
        return self._directory / f"worker-{slot}.sock"

    def _take_fds(self, link: WorkerLink) -> None:
        """The adopted worker's listeners become ours to hold as well."""
        for owner, socks in link.listeners.items():
            ours = self._listeners.get(owner)
            for name, sock in socks.items():
                if ours is None or name in ours:
                    sock.close()
                else:
                    ours[name] = sock

    async def _start(self, slot: int) -> WorkerLink:
        path = self._path(slot)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(4)
            arguments = self._arguments(slot, listening.fileno())
            process = Process.of(spawn.start("agent.worker", arguments, pass_fds=(listening.fileno(),)))
        try:
            # The socket listens already: the connect waits in its queue until the worker has started.
            return await WorkerLink.connect(path, self._on_stats, self._on_lost, process)
        except BaseException as error:
            # Nobody else knows it: it would outlive this process and never be found.
            if not isinstance(error, ChannelError):
                process.kill()
            failure = await process.end()
            if isinstance(error, ChannelError | TimeoutError):
                log.debug("worker %d: %s", slot, failure.details)
                raise ChildFailed(f"worker {slot} did not start", failure) from error
            raise

    def _arguments(self, slot: int, fd: int) -> list[str]:
        arguments = ["--slot", str(slot), "--channel-fd", str(fd)]
        arguments += ["--version", self._version, "--config", json.dumps(self._options)]
        for flag, path in zip(("--pod-netns", "--net-netns"), self._netns_paths, strict=True):
            if path is not None:
                arguments += [flag, path]
        return arguments

    def _enlist(self, slot: int, link: WorkerLink) -> None:
        self._links[slot] = link
        if not self._gates_open:
            self._waiting.append(link)
            return
        self._brief(link)
        self._carry_out(self._roster.arrived(slot))

    def _carry_out(self, moves: Sequence[Move]) -> None:
        for move in moves:
            link = self._links.get(move.slot)
            if link is None:
                continue
            if isinstance(move, Grant):
                socks = self._listeners[move.owner]
                link.send(channel.Listeners(move.owner, tuple(socks)), [s.fileno() for s in socks.values()])
            else:
                link.send(channel.Release(move.owner))

    def _on_lost(self, link: WorkerLink) -> None:
        self._links.pop(link.slot, None)
        # First somebody serves its queue, then its successor is started.
        self._carry_out(self._roster.died(link.slot))
        self._lost.put_nowait(link)
        self._one_lost.set()

    async def _replace_lost(self) -> None:
        pause_s = RESTART_PAUSE_S
        while True:
            lost = await self._lost.get()
            if self.stopping:
                continue
            # A worker that cannot be told of policy must not serve by the old one, even if it still lives.
            lost.kill()
            failure = await lost.process.end()
            log.warning("worker %d (pid %d) is gone (%s): starting another", lost.slot, lost.pid, failure)
            log.debug("worker %d (pid %d): %s", lost.slot, lost.pid, failure.details)
            self.restarts += 1
            await asyncio.sleep(pause_s)
            try:
                self._enlist(lost.slot, await self._start(lost.slot))
                pause_s = RESTART_PAUSE_S
            except (OSError, ChildFailed) as error:
                pause_s = min(pause_s * 2, RESTART_PAUSE_MAX_S)
                log.error("%s; trying again in %.2g s", error, pause_s)
                self._lost.put_nowait(lost)

    async def _watch_silence(self) -> None:
        """End workers that hang: their tunnels stand still, and peers would wait for a ping's time-out."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(STALL_S)
            for link in self.links:
                silent_s = loop.time() - link.heard_s
                if silent_s >= SILENCE_S:
                    log.error(
                        "worker %d (pid %d) was silent for %.0f s: killing it", link.slot, link.pid, silent_s
                    )
                    link.kill()

    async def _watch_queues(self) -> None:
        waiting_s = dict.fromkeys(self._listeners, 0.0)
        while True:
            await asyncio.sleep(STALL_POLL_S)
            for owner, socks in self._listeners.items():
                queued = any(accept_queue(sock) for sock in socks.values())
                waiting_s[owner] = waiting_s[owner] + STALL_POLL_S if queued else 0.0
                if waiting_s[owner] >= STALL_S:
                    log.warning(
                        "connections wait at the listeners of worker %d: another one serves them too", owner
                    )
                    self._carry_out(self._roster.stalled(owner))
                    waiting_s[owner] = 0.0


def accept_queue(sock: socket.socket) -> int:
    """How many connections wait to be accepted."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACCEPT_QUEUE.size)
    (waiting,) = ACCEPT_QUEUE.unpack(raw)
    return int(waiting)
