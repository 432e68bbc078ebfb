"""Finds the workers of a run directory and starts new ones; what they are then used for is the crew's business.

Each listens on a socket `worker-SLOT-N.sock`; N tells apart those of one slot that follow each other. The control
process binds it and passes it on, so that a connection to it waits in its queue until the worker has started.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Protocol

from agent import FORM, VERSION
from agent.build import build_id
from agent.channel import ChannelError, FdsLost
from agent.model.listener import ROWS, Side
from agent.supervisor.peer import is_at_home, listening_pid, residents
from agent.supervisor.process import Process
from agent.supervisor.worker_link import Hears, WorkerLink, dial, greeted
from redirect import spawn
from redirect.spawn import Cause, Child, ChildFailed, Failure

log = logging.getLogger(__name__)


class Starts(Protocol):
    """Makes a process of a module of ours; as `spawn.start`."""

    def __call__(self, module: str, arguments: Iterable[str], *, pass_fds: Sequence[int]) -> Child: ...


SOCKETS = "worker-*.sock"
REMEDY = "keep others from removing it, or start the agent with another --run-dir"
LOST_TRIES = 10
LOST_PAUSE_S = 0.3
GONE_TRIES = 3
"""How often a worker is started anew in a run directory that somebody has removed meanwhile."""
START_PATIENCE_S = 30.0
"""A worker that starts reads its code first, which takes its time on a busy node with a cold disk."""


class Recruiter:
    """`options` are the agent's; `homes` the paths of the private namespaces, none where there are none.

    `module` is what a worker runs, `start` makes its process. Workers may differ in the `ignored` options.
    """

    def __init__(
        self,
        directory: Path,
        options: Mapping[str, str],
        homes: Mapping[Side, str],
        module: str = "agent.worker",
        start: Starts = spawn.start,
        ignored: Collection[str] = (),
    ) -> None:
        told = {name: text for name, text in options.items() if name not in ignored}
        told_digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
        self.version = f"{VERSION}+{FORM.word}+{build_id()}+{told_digest}"
        """Workers of another build, another form of it or other options do not stay: they hand over."""
        self._directory = directory.absolute()
        self._options = options
        self._homes = homes
        self._module = module
        self._start = start

    async def find(self, hears: Hears) -> list[WorkerLink]:
        """Every worker of the run directory that can be used. Those that cannot are ended, wherever they are from."""
        with ExitStack() as closing:
            found = []
            for path in sorted(self._directory.glob(SOCKETS)):
                link = await self._find(path, hears)
                if link is not None:
                    closing.callback(_let_go, link)
                    found.append(link)
            await self._end_strays({link.pid for link in found})
            closing.pop_all()
        return found

    async def start(self, slot: int, hears: Hears) -> WorkerLink:
        """A new worker that has said Hello; a run directory that is gone is made again. Raises ChildFailed, OSError."""
        for _ in range(GONE_TRIES):
            self._make_directory()
            try:
                return await self._start_once(slot, hears)
            except FileNotFoundError as error:
                # Only where the name of its socket has gone, from under it or before it was there.
                if error.filename is None or Path(error.filename).parent != self._directory:
                    raise
                log.warning("%s; starting worker %d again", error, slot)
        text = f"the run directory is removed whenever worker {slot} starts: {REMEDY}"
        raise OSError(errno.ENOENT, text, str(self._directory))

    def _make_directory(self) -> None:
        """What else was in it is made again by who looks after it (`agent.watch.run_directory`). Raises OSError."""
        if self._directory.is_dir():
            return
        log.warning("the run directory %s is gone: it is made again", self._directory)
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            text = f"the run directory is gone and cannot be made again: {error.strerror}; {REMEDY}"
            raise OSError(error.errno, text, str(self._directory)) from error

    async def _start_once(self, slot: int, hears: Hears) -> WorkerLink:
        path = self._free_path(slot)
        with socket.socket(socket.AF_UNIX) as listening:
            bind(listening, path)
            listening.listen()
            arguments = self._arguments(slot, listening.fileno())
            process = Process.of(self._start(self._module, arguments, pass_fds=(listening.fileno(),)))
        try:
            return await meet(path, process, hears)
        except BaseException as error:
            # Nobody else knows it: it would outlive this process and never be found.
            if not isinstance(error, ChannelError):
                process.kill()
            failure = await process.end()
            drop_name(path)
            if isinstance(error, TimeoutError):
                failure = Failure(Cause.SYSTEM, "it said nothing for too long", failure.details)
            if isinstance(error, ChannelError | TimeoutError):
                log.debug("worker %d: %s", slot, failure.details)
                raise ChildFailed(f"worker {slot} did not start", failure) from error
            raise

    async def _find(self, path: Path, hears: Hears) -> WorkerLink | None:
        for _ in range(LOST_TRIES):
            try:
                return await self._greet(path, hears)
            except FdsLost as error:
                # It is sound, and greets whoever connects: no reason to end it and what it carries.
                log.warning("the worker at %s: %s; connecting again", path, error)
                await asyncio.sleep(LOST_PAUSE_S)
        raise OSError(
            errno.EMFILE,
            f"the listeners of the worker at {path} do not arrive: raise the limit of descriptors",
        )

    async def _greet(self, path: Path, hears: Hears) -> WorkerLink | None:
        try:
            channel = await dial(path)
        except OSError:
            # Nobody listens any more: it is only the name.
            drop_name(path)
            return None
        try:
            process = process_behind(channel.sock, path)
        except BaseException:
            channel.close()
            raise
        if process is None:
            log.error("the worker at %s cannot be adopted: its process is not seen from here; end it", path)
            channel.close()
            return None
        try:
            link = await greeted(channel, process, path, hears)
        except BaseException as error:
            channel.close()
            if isinstance(error, FdsLost) or not isinstance(error, ChannelError | TimeoutError):
                process.close()
                raise
            reason = str(error) or "it said nothing for too long"
        else:
            if self._is_at_home(link):
                return link
            _part(link)
            reason = "it lives in namespaces that were removed since"
        # It cannot be told of policy, or serves nobody: what it has must not stay.
        log.warning("the worker at %s (pid %d) cannot be used (%s): ending it", path, process.pid, reason)
        process.kill()
        await process.end()
        drop_name(path)
        return None

    async def _end_strays(self, found: Collection[int]) -> None:
        """Workers whose names are gone, as with a run directory that is removed when a service stops.

        They share the listeners and would judge by the policy of then.
        """
        for pid in residents(self._module, self._homes.values()):
            if pid in found:
                continue
            with suppress(ProcessLookupError):
                process = Process(pid)
                # Once more: it may have ended in between, and the number be another's.
                if pid in residents(self._module, self._homes.values()):
                    log.warning("a worker (pid %d) has no socket in the run directory: ending it", pid)
                    process.kill()
                    await process.end()
                process.close()

    def _is_at_home(self, link: WorkerLink) -> bool:
        sides = {row.name: row.side for row in ROWS}
        listeners = [
            (sock, self._homes.get(sides[name]))
            for socks in link.listeners.values()
            for name, sock in socks.items()
            if name in sides
        ]
        return is_at_home(link.pid, listeners, self._homes.values())

    def _free_path(self, slot: int) -> Path:
        names = (path.name for path in self._directory.glob(SOCKETS))
        taken = [
            int(match[1]) for name in names if (match := re.fullmatch(rf"worker-{slot}-(\d+)\.sock", name))
        ]
        return self._directory / f"worker-{slot}-{max(taken, default=0) + 1}.sock"

    def _arguments(self, slot: int, fd: int) -> list[str]:
        arguments = ["--slot", str(slot), "--channel-fd", str(fd)]
        arguments += ["--version", self.version, "--build", build_id(), "--config", json.dumps(self._options)]
        for side, path in self._homes.items():
            arguments += [f"--{side.value}-netns", path]
        return arguments


def _part(link: WorkerLink) -> None:
    """Have nothing of a worker any more but its process."""
    link.part()
    for sock in chain.from_iterable(socks.values() for socks in link.listeners.values()):
        sock.close()


def _let_go(link: WorkerLink) -> None:
    _part(link)
    link.close()


def bind(listening: socket.socket, path: Path) -> None:
    """A socket at a path, for its owner alone. Raises OSError, which names the path."""
    try:
        listening.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        raise OSError(
            error.errno, f"no socket for a worker can be made: {error.strerror or error}", str(path)
        ) from error


def drop_name(path: Path) -> None:
    """Take away the name of a socket on which nobody listens. One that stays harms nobody: it is passed by."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the name of a worker that is gone stays: %s", error)


def process_behind(sock: socket.socket, path: Path) -> Process | None:
    """The process that listens at `path`, held; None where it cannot be seen from here."""
    pid = listening_pid(sock, path)
    if pid is None:
        return None
    try:
        process = Process(pid)
    except ProcessLookupError:
        return None
    if listening_pid(sock, path) != pid:
        # It ended in between, and the number may be another's.
        process.close()
        return None
    return process


async def meet(path: Path, process: Process, hears: Hears) -> WorkerLink:
    """The worker that starts at `path`. Raises OSError, ChannelError, TimeoutError."""
    try:
        channel = await dial(path)
    except OSError as error:
        text = f"the socket of a worker that starts cannot be reached: {error.strerror or error}"
        raise OSError(error.errno, text, str(path)) from error
    try:
        return await greeted(channel, process, path, hears, START_PATIENCE_S)
    except BaseException:
        channel.close()
        raise
