"""A crew of fake workers for tests: real processes, real sockets, no root."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.channel import Resources, Stats
from agent.model.listener import Listener
from agent.net.sockets import open_listener
from agent.supervisor.crew import Crew, Limits
from agent.supervisor.recruiter import Recruiter
from agent.supervisor.worker_link import WorkerLink

PATIENCE_S = 60.0
LIMITS = Limits(silence_s=20.0, stall_s=0.2, drain_s=PATIENCE_S)


async def until(holds: Callable[[], object], what: str) -> None:
    """Return when it holds. Fails after a while."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}") from None


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Played:
    """A crew in its directory, with what it was told. `addresses` are those of the listeners it had made."""

    def __init__(self, directory: Path, count: int, limits: Limits, flavour: str, formats: str = "") -> None:
        self.directory = directory
        self.reports: Counter[int] = Counter()
        self.last: dict[int, Stats] = {}
        self.ended: list[int] = []
        self.briefed: list[int] = []
        self.addresses: list[tuple[str, int]] = []
        self.revision = 0
        options = {"lair": str(directory), "flavour": flavour, "formats": formats}
        self.crew = Crew(
            Recruiter(directory, options, {}, "tests.support.fake_worker"),
            count,
            make_listener=self._listener,
            brief=self._brief,
            reported=self._reported,
            ended=lambda link: self.ended.append(link.pid),
            limits=limits,
        )

    @property
    def pids(self) -> dict[int, int]:
        return {link.slot: link.pid for link in self.crew.links}

    def dial(self, index: int = 0) -> socket.socket:
        """A connection to one of the listeners; it is queued at once, and served when somebody accepts."""
        sock = socket.create_connection(self.addresses[index], PATIENCE_S)
        sock.settimeout(PATIENCE_S)
        return sock

    async def say(self, sock: socket.socket) -> bool:
        """Whether a connection echoes."""

        def talk() -> bool:
            sock.sendall(b"hello")
            return sock.recv(5) == b"hello"

        return await asyncio.to_thread(talk)

    def send_policy(self) -> None:
        self.revision += 1
        self.crew.broadcast(Resources(self.revision, "policy", ()))

    async def say_on(self, talks: Sequence[socket.socket]) -> bool:
        """Whether every one of these connections echoes."""
        return all([await self.say(talk) for talk in talks])

    async def change_policy(self, patience_s: float = PATIENCE_S) -> None:
        self.send_policy()
        await self.crew.applied(self.revision, patience_s)

    async def heard(self, link: WorkerLink) -> list[str]:
        answer = await link.ask("heard")
        assert isinstance(answer, list)
        return answer

    def _listener(self, _: Listener) -> socket.socket:
        made = open_listener(None, 0, transparent=False, reuse_port=True, address="127.0.0.1")
        self.addresses.append(made.getsockname())
        return made

    def _brief(self, link: WorkerLink) -> None:
        self.briefed.append(link.pid)
        link.send(Resources(self.revision, "policy", (), full=True))

    def _reported(self, link: WorkerLink, stats: Stats) -> None:
        self.reports[link.pid] += 1
        self.last[link.pid] = stats


@asynccontextmanager
async def crew_of(
    directory: Path,
    count: int = 2,
    *,
    limits: Limits = LIMITS,
    flavour: str = "plain",
    formats: str = "",
) -> AsyncIterator[Played]:
    """A crew that is mustered, kept, and let go of at the end; its workers live on, as after a crash."""
    played = Played(directory, count, limits, flavour, formats)
    try:
        async with asyncio.TaskGroup() as group:
            await played.crew.muster()
            keeping = group.create_task(played.crew.keep())
            yield played
            keeping.cancel()
    finally:
        played.crew.close()


def stop(pid: int) -> None:
    """SIGSTOP; returns when it stands still."""
    os.kill(pid, signal.SIGSTOP)
    with suppress(FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            os.sched_yield()
