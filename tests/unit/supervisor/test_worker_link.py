"""The control process's end of a channel, over unix sockets, with a real process behind it that does nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from agent.channel import Answer, Applied, Ask, ChannelError, Hello, Leaving, Resources, Stats
from agent.channel_socket import Channel
from agent.supervisor.process import Process
from agent.supervisor.worker_link import WorkerLink, greeted
from redirect import spawn
from tests.support.crews import is_alive, until

Scene = Callable[["Worker"], Coroutine[None, None, None]]


class Worker:
    """The other end, by hand; `told` is what the link made of it."""

    def __init__(self, process: Process) -> None:
        ours, self._theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.process = process
        self.told: list[object] = []

    def close(self) -> None:
        """Both ends: what a process would close by ending."""
        self.channel.close()
        self._theirs.close()
        self.process.close()

    async def greeted(self) -> WorkerLink:
        return await greeted(Channel(self._theirs), self.process, Path("worker-4-1.sock"), self)

    def reported(self, link: WorkerLink, stats: Stats) -> None:
        self.told.append(stats.connections)

    def leaving(self, link: WorkerLink) -> None:
        self.told.append("leaving")

    def lost(self, link: WorkerLink) -> None:
        self.told.append("lost")


@pytest.fixture
def play() -> Iterator[Callable[[Scene], None]]:
    child = spawn.start("tests.support.failing_child", ["sleep"])

    async def run(scene: Scene) -> None:
        worker = Worker(Process.of(child))
        try:
            await scene(worker)
        finally:
            worker.process.kill()
            await worker.process.ended()
            worker.close()

    yield lambda scene: asyncio.run(run(scene))
    assert not is_alive(child.pid)


def test_what_arrives_with_the_hello_is_heard_too(play: Callable[[Scene], None]) -> None:
    async def scene(worker: Worker) -> None:
        worker.channel.send(Hello(4, 1, (), "v", True))
        worker.channel.send(Leaving())
        worker.channel.send(Stats({}, 2))
        link = await worker.greeted()
        assert (link.slot, link.version, link.is_draining, link.pid) == (4, "v", True, worker.process.pid)
        await until(lambda: worker.told == ["leaving", 2], "both")
        link.part()

    play(scene)


@pytest.mark.parametrize(
    ("first", "complaint"), [(Applied(1), "first message was Applied"), (None, "closed the worker channel")]
)
def test_a_worker_that_does_not_say_hello_is_refused(
    play: Callable[[Scene], None], first: Applied | None, complaint: str
) -> None:
    async def scene(worker: Worker) -> None:
        if first is not None:
            worker.channel.send(first)
        worker.channel.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ChannelError, match=complaint):
            await worker.greeted()

    play(scene)


def test_its_listeners_come_with_its_hello(play: Callable[[Scene], None]) -> None:
    async def scene(worker: Worker) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            fds = [one.fileno(), two.fileno()]
            worker.channel.send(Hello(4, 1, [(0, "a"), (7, "b")], "v"), fds)
            addresses = [one.getsockname(), two.getsockname()]
        link = await worker.greeted()
        assert link.owners == {0, 7}
        assert [link.listeners[0]["a"].getsockname(), link.listeners[7]["b"].getsockname()] == addresses
        for socks in link.listeners.values():
            for sock in socks.values():
                sock.close()
        link.part()

    play(scene)


def test_questions_find_their_answers_and_fail_with_the_worker(play: Callable[[Scene], None]) -> None:
    async def scene(worker: Worker) -> None:
        worker.channel.send(Hello(4, 1, (), "v"))
        link = await worker.greeted()
        async with asyncio.TaskGroup() as group:
            one, two = (group.create_task(link.ask(what)) for what in ("one", "two"))
            asked: list[Ask] = []
            await until(
                lambda: asked.extend(m for m, _ in worker.channel.receive()) or len(asked) == 2, "two"
            )
            first, second = asked
            worker.channel.send(Answer(second.number, b'"two"'))
            worker.channel.send(Answer(first.number, "one"))
        assert (one.result(), two.result()) == ("one", "two")

        async def unanswered() -> None:
            with pytest.raises(ChannelError, match="worker 4 is gone"):
                await link.ask("three")

        async with asyncio.TaskGroup() as group:
            group.create_task(unanswered())
            await until(lambda: worker.channel.receive(), "three")
            worker.channel.sock.shutdown(socket.SHUT_RDWR)
        assert worker.told == ["lost"] and link.is_lost

    play(scene)


def test_reached_waits_for_the_revision_or_the_end(play: Callable[[Scene], None]) -> None:
    async def scene(worker: Worker) -> None:
        worker.channel.send(Hello(4, 1, (), "v"))
        link = await worker.greeted()
        async with asyncio.TaskGroup() as group:
            second = group.create_task(link.reached(2))
            third = group.create_task(link.reached(3))
            worker.channel.send(Applied(1))
            worker.channel.send(Applied(2))
            await until(second.done, "the second")
            assert not third.done()
            worker.channel.sock.shutdown(socket.SHUT_RDWR)
        assert link.is_lost and worker.told == ["lost"]

    play(scene)


def test_a_message_that_is_none_of_a_workers_ends_the_channel(play: Callable[[Scene], None]) -> None:
    async def scene(worker: Worker) -> None:
        worker.channel.send(Hello(4, 1, (), "v"))
        link = await worker.greeted()
        worker.channel.send(Resources(1, "policy", ()))
        await until(lambda: link.is_lost, "the end")
        assert worker.told == ["lost"]
        link.send(Resources(1, "policy", ()))  # nobody is there any more

    play(scene)


def test_the_last_figures_of_a_worker_count_also_when_telling_it_fails_first(
    play: Callable[[Scene], None],
) -> None:
    async def scene(worker: Worker) -> None:
        worker.channel.send(Hello(4, 1, (), "v"))
        link = await worker.greeted()
        worker.channel.send(Stats({}, 3))
        worker.channel.close()
        link.send(Resources(1, "policy", ()))
        await until(lambda: link.is_lost, "the end")
        assert worker.told == [3, "lost"]

    play(scene)


def test_a_large_message_is_sent_as_the_worker_reads_it(play: Callable[[Scene], None]) -> None:
    async def scene(worker: Worker) -> None:
        worker.channel.send(Hello(4, 1, (), "v"))
        link = await worker.greeted()
        blob = os.urandom(4 << 20)
        link.send(Resources(1, "policy", (("name", blob),)))
        got: list[Resources] = []
        await until(lambda: got.extend(m for m, _ in worker.channel.receive()) or got, "all of it")
        assert got[0].updates[0][1] == blob
        link.part()

    play(scene)
