"""One worker as the control process sees it: its channel, its pid, what it last said.

Workers outlive the control process: each listens on `worker-N.sock` in the run directory, and whoever is the
control process now connects to it. A worker that this process started is reaped by it; an adopted one is
watched through its channel and a pidfd.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.channel import Answer, Applied, Channel, ChannelError, Hello, Message, Stats, with_fds
from agent.supervisor.process import Process

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0


class WorkerLink:
    """A connected worker. `on_message` hears Stats; `on_lost` is called once when it is gone."""

    def __init__(
        self,
        channel: Channel,
        hello: Hello,
        fds: list[int],
        process: Process,
        on_stats: Callable[[WorkerLink, Stats], None],
        on_lost: Callable[[WorkerLink], None],
    ) -> None:
        self.slot = hello.slot
        self.process = process
        self.version = hello.version
        self.listeners = adopted(hello, fds)
        """What it accepts on: its listeners by owner and name, ours to hold as well."""
        self.applied = 0
        self.stats: Stats | None = None
        self._channel = channel
        self._on_stats = on_stats
        self._on_lost = on_lost
        self._answers: dict[int, asyncio.Future[object]] = {}
        self._applied_changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.heard_s = self._loop.time()
        """When it last said anything, on the loop's clock."""
        self._lost = False
        self._loop.add_reader(channel.sock, self._readable)
        self._writing = False

    @classmethod
    async def connect(
        cls,
        path: Path,
        on_stats: Callable[[WorkerLink, Stats], None],
        on_lost: Callable[[WorkerLink], None],
        process: Process | None = None,
    ) -> WorkerLink:
        """Connect to a worker's socket and wait for its Hello. Raises OSError, ChannelError, TimeoutError.

        `process`: the worker, where this process started it.
        """
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        channel = Channel(sock)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(path))
            hello, fds = await _first_message(channel)
            return cls(channel, hello, fds, process or Process(hello.pid), on_stats, on_lost)
        except BaseException:
            channel.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def owners(self) -> frozenset[int]:
        return frozenset(self.listeners)

    @property
    def is_lost(self) -> bool:
        return self._lost

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue a message; a broken channel is reported through `on_lost`, not raised."""
        if self._lost:
            return
        try:
            self._channel.send(message, fds)
        except ChannelError as error:
            self._lose(error)
            return
        self._want_writes()

    async def ask(self, message: Message, number: int) -> object:
        """Send a question and wait for its answer. Raises TimeoutError or ChannelError."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._answers[number] = future
        self.send(message)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await future
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
        self._on_lost = lambda _: None
        self._lose(None)
        self.process.close()

    def _readable(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelError as error:
            self._lose(error)
            return
        self.heard_s = self._loop.time()
        for message, _ in messages:
            self._heard(message)

    def _heard(self, message: Message) -> None:
        if isinstance(message, Applied):
            self.applied = message.revision
            self._applied_changed.set()
        elif isinstance(message, Stats):
            self.stats = message
            self._on_stats(self, message)
        elif isinstance(message, Answer):
            future = self._answers.get(message.number)
            if future is not None and not future.done():
                future.set_result(message.value)

    def _want_writes(self) -> None:
        if self._channel.wants_write and not self._writing:
            self._writing = True
            self._loop.add_writer(self._channel.sock, self._writable)

    def _writable(self) -> None:
        try:
            self._channel.flush()
        except ChannelError as error:
            self._lose(error)
            return
        if not self._channel.wants_write:
            self._writing = False
            self._loop.remove_writer(self._channel.sock)

    def _lose(self, error: ChannelError | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._loop.remove_reader(self._channel.sock)
        self._loop.remove_writer(self._channel.sock)
        self._channel.close()
        self._applied_changed.set()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ChannelError(f"worker {self.slot} is gone"))
        if error is not None:
            log.info("worker %d (pid %d): %s", self.slot, self.pid, error)
        self._on_lost(self)


def adopted(hello: Hello, fds: Sequence[int]) -> dict[int, dict[str, socket.socket]]:
    """The listeners that came with a Hello, by owner and name. Raises ChannelError."""
    listeners: dict[int, dict[str, socket.socket]] = {}
    for (owner, name), fd in with_fds(hello.served, fds):
        listeners.setdefault(owner, {})[name] = socket.socket(fileno=fd)
    return listeners


async def _first_message(channel: Channel) -> tuple[Hello, list[int]]:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(channel.sock, readable.set)
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            while True:
                await readable.wait()
                readable.clear()
                for message, fds in channel.receive():
                    if not isinstance(message, Hello):
                        raise ChannelError(f"a worker's first message was {type(message).__name__}")
                    return message, fds
    finally:
        loop.remove_reader(channel.sock)
