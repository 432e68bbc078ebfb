"""One worker as the control process sees it: its process, its channel, what it last said.

Workers outlive the control process: each listens on a socket in the run directory, and whoever is the control
process now connects to it. What a worker is used for (a slot, or draining) is the crew's business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from agent.channel import (
    Answer,
    Applied,
    Ask,
    ChannelError,
    GoOn,
    HandedOver,
    Hello,
    Leaving,
    Message,
    NotKnown,
    Stats,
    TakeOver,
    Unknown,
    Unserved,
    Wanted,
    with_fds,
)
from agent.channel_socket import Channel
from agent.supervisor.patience import within
from agent.supervisor.process import Process

log = logging.getLogger(__name__)

ASK_PATIENCE_S = 5.0
BRIEFED_PATIENCE_S = 30.0
"""A worker answers in the order in which it is spoken to: a large mesh before anything else."""

Arrived = list[tuple[Message, list[int]]]


class Hears(Protocol):
    """Who has the workers."""

    def reported(self, link: WorkerLink, stats: Stats) -> None: ...

    def leaving(self, link: WorkerLink) -> None:
        """It was asked to end, and waits to be told how."""

    def not_known(self, link: WorkerLink, kind: str, *, binds: bool) -> None:
        """It does not know what it was told; where that binds, it drains."""

    def unserved(self, link: WorkerLink, owner: int) -> None:
        """It was told to serve an owner's listeners, and their fds did not reach it."""

    def wanted(self, names: Sequence[str]) -> None:
        """Connections of it wait for what these name."""

    def lost(self, link: WorkerLink) -> None:
        """Its channel has ended; called once. The process may still be there."""


class WorkerLink:
    """A connected worker that has said Hello, with what arrived behind it. Raises ChannelError for a wrong Hello."""

    def __init__(
        self, channel: Channel, process: Process, path: Path, hello: Hello, arrived: Arrived, hears: Hears
    ) -> None:
        self.slot = hello.slot
        self.process = process
        self.path = path
        self.version = hello.version
        self.is_draining = hello.is_draining
        self.has_handed_over = False
        """All that it was told to, and without a failure."""
        self.protocol = hello.protocol
        self.formats = tuple(hello.formats)
        """Of units: those in which it hands over, and takes."""
        self._handed: HandedOver | None = None
        self._handed_changed = asyncio.Event()
        self.listeners = listeners_of(hello, arrived[0][1])
        """What it accepts on: its listeners by owner and name, ours to hold as well."""
        self.applied = 0
        self.stats: Stats | None = None
        self.silent_s = 0.0
        """How long it has said nothing; whoever watches it adds, and any message ends it."""
        self._channel = channel
        self._hears = hears
        self._questions = 0
        self._answers: dict[int, asyncio.Future[object]] = {}
        self._applied_changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.since_s = self._loop.time()
        self._lost = False
        self._loop.add_reader(channel.sock, self._readable)
        for message, _ in arrived[1:]:
            self._loop.call_soon(self._heard, message)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def owners(self) -> frozenset[int]:
        return frozenset(self.listeners)

    @property
    def is_lost(self) -> bool:
        return self._lost

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue a message; a broken channel is reported through `lost`, not raised."""
        if not self._lost:
            self._write(lambda: self._channel.send(message, fds))

    async def ask(self, what: str) -> object:
        """Send a question and wait for its answer. Raises TimeoutError or ChannelError."""
        return await self._asked(lambda number: Ask(number, what))

    async def go_on(self, patience_s: float, drain_s: float) -> None:
        """Have it serve without this process until another one comes, or end. Raises TimeoutError or ChannelError."""
        await self._asked(lambda number: GoOn(number, patience_s, drain_s))

    def knows(self, kind: type[Message]) -> bool:
        """Whether its build knows what such a message means."""
        return self.protocol >= kind.SINCE

    async def take_over(self, fd: int) -> None:
        """Have it take what a worker at the other end of `fd` gives, by all that it was told before.

        Raises TimeoutError or ChannelError.
        """
        if reason := await self._asked(lambda number: TakeOver(number), [fd], BRIEFED_PATIENCE_S):
            raise ChannelError(str(reason))

    async def handed_over(self) -> HandedOver | None:
        """What became of the hand-over that it was told to make; None where it is gone."""
        while self._handed is None and not self._lost:
            self._handed_changed.clear()
            await self._handed_changed.wait()
        account, self._handed = self._handed, None
        return account

    async def _asked(
        self, question: Callable[[int], Message], fds: Sequence[int] = (), patience_s: float = ASK_PATIENCE_S
    ) -> object:
        self._questions += 1
        number = self._questions
        future: asyncio.Future[object] = self._loop.create_future()
        self._answers[number] = future
        self.send(question(number), fds)
        try:
            return await within(patience_s, lambda: asyncio.shield(future))
        finally:
            del self._answers[number]

    async def reached(self, revision: int) -> None:
        """Return when the worker has applied state up to this revision, or is lost."""
        while self.applied < revision and not self._lost:
            self._applied_changed.clear()
            await self._applied_changed.wait()

    def kill(self) -> None:
        """End the worker's process at once, if it is still there: stale policy must not be served."""
        self.process.kill()

    def close(self) -> None:
        """Let go of the worker without ending it."""
        self.part()
        self.process.close()

    def _readable(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelError as error:
            self._lose(error)
            return
        for message, fds in messages:
            self._heard(message)
            for fd in fds:  # of what another build sends: only a Hello brings some that are known here
                os.close(fd)

    def _heard(self, message: Message) -> None:
        self.silent_s = 0.0
        match message:
            case Applied():
                self.applied = message.revision
                self._applied_changed.set()
            case Stats():
                self.stats = message
                self._hears.reported(self, message)
            case Leaving():
                self._hears.leaving(self)
            case HandedOver():
                self._handed = message
                self._handed_changed.set()
            case NotKnown():
                self._hears.not_known(self, message.kind, binds=message.binds)
            case Unknown():
                log.debug("%s says %s, which this build does not know", self, message.kind)
            case Unserved():
                self._hears.unserved(self, message.owner)
            case Wanted():
                self._hears.wanted(message.names)
            case Answer():
                future = self._answers.get(message.number)
                if future is not None and not future.done():
                    value = message.value
                    future.set_result(json.loads(value) if isinstance(value, bytes) else value)
            case _:
                self._lose(ChannelError(f"a worker does not send {type(message).__name__}"))

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except ChannelError:
            # Its last figures may lie unread: they are heard before the end is found, by the reader.
            self._channel.break_off()
            self._loop.remove_writer(self._channel.sock)
            return
        if self._channel.wants_write:
            self._loop.add_writer(self._channel.sock, lambda: self._write(self._channel.flush))
        else:
            self._loop.remove_writer(self._channel.sock)

    def _lose(self, error: ChannelError) -> None:
        if not self._lost:
            self.part()
            log.info("%s: %s", self, error)
            self._hears.lost(self)

    def part(self) -> None:
        """End the channel, and only that; the process stays held."""
        if self._lost:
            return
        self._lost = True
        self._loop.remove_reader(self._channel.sock)
        self._loop.remove_writer(self._channel.sock)
        self._channel.close()
        self._applied_changed.set()
        self._handed_changed.set()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ChannelError(f"worker {self.slot} is gone"))


def listeners_of(hello: Hello, fds: Sequence[int]) -> dict[int, dict[str, socket.socket]]:
    """The listeners that came with a Hello, by owner and name. Raises FdsLost."""
    listeners: dict[int, dict[str, socket.socket]] = {}
    for (owner, name), fd in with_fds(hello.served, fds):
        listeners.setdefault(owner, {})[name] = socket.socket(fileno=fd)
    return listeners


async def dial(path: Path) -> Channel:
    """A channel to whoever listens at `path`. Raises OSError: nobody does."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, str(path))
    except BaseException:
        sock.close()
        raise
    return Channel(sock)


async def greeted(
    channel: Channel, process: Process, path: Path, hears: Hears, patience_s: float = ASK_PATIENCE_S
) -> WorkerLink:
    """The worker at the other end, once it has said Hello. Raises ChannelError, TimeoutError; closes neither."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    arrived: Arrived = []

    async def first_message() -> None:
        while not arrived:
            await readable.wait()
            readable.clear()
            arrived.extend(channel.receive())

    loop.add_reader(channel.sock, readable.set)
    try:
        await within(patience_s, first_message)
    finally:
        loop.remove_reader(channel.sock)
    hello = arrived[0][0]
    if not isinstance(hello, Hello):
        raise ChannelError(f"a worker's first message was {type(hello).__name__}")
    return WorkerLink(channel, process, path, hello, arrived, hears)
