"""One connection after the other with a server of the socket, on a source without a kernel side."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from agent.enroll.handed import HandedNamespaces
from agent.enroll.source import Claim, NotReady, follow
from agent.enroll.wish import PodKey, WantedBy, Wish
from agent.zds import source as zds_source
from agent.zds.packets import PacketSocket
from agent.zds.source import ZdsSource
from redirect.netns import NamespaceId
from tests.support.zds_server import Named, ZdsServer, add, delete


class Kernel:
    """Does at once what the source wants. `refusal`: of the next add; `back`: what istio-cni has taken back."""

    def __init__(self) -> None:
        self.wishes: Mapping[PodKey, Wish] = {}
        self.source: ZdsSource | None = None
        self.refusal = ""
        self.back: set[NamespaceId] = set()
        self.steps: list[str] = []
        self.waits: asyncio.Event | None = None

    async def follow(self) -> None:
        source = self.source
        assert source is not None
        wishes = dict(self.wishes)
        asked = follow(WantedBy.ISTIO_CNI, source.claims() or {}, wishes, {}, 1.0, are_all=source.knows_all)
        for step in list(asked):
            self.steps.append(f"{type(step).__name__} {step.pod.name}")
            wishes.pop(step.pod, None)
            if hasattr(step, "wish"):
                wishes[step.pod] = step.wish
        self.wishes = wishes
        source.turned()

    async def admit(self, key: PodKey, claim: Claim, namespace: NamespaceId, wait_s: float) -> None:
        await self.follow()
        if self.waits is not None:
            await self.waits.wait()
        if self.refusal:
            raise NotReady(self.refusal)

    async def is_let_go(self, namespace: NamespaceId) -> bool:
        return namespace in self.back


class Handed(HandedNamespaces):
    """Any file is a namespace here: its inode says which."""

    def take(self, fd: int) -> NamespaceId:
        inode = os.fstat(fd).st_ino
        namespace = NamespaceId(inode, 0)
        if self._fds.setdefault(namespace, fd) != fd:
            os.close(fd)
        return namespace


class There:
    """A source and the server that it talks to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = ZdsServer(directory / "sock")
        self.kernel = Kernel()
        self.handed = Handed()
        self.source = ZdsSource(str(self.server.path), self.handed, Random(1))
        self.source.admission = self.kernel
        self.kernel.source = self.source

    def pod(self, name: str, uid: str = "") -> Named:
        path = self.directory / name
        path.touch()
        return Named(uid or f"u-{name}", name, path)

    def namespace(self, name: str) -> NamespaceId:
        return NamespaceId((self.directory / name).stat().st_ino, 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.source.run())
            try:
                yield
            finally:
                task.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - there is no event for it outside of tests
                await asyncio.sleep(0.005)

    async def whole(self) -> None:
        await self.until(lambda: self.source.has_snapshot)

    def run(self, play: Callable[[], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            async with self.running():
                await play()

        asyncio.run(all_of_it())


@pytest.fixture
def there(tmp_path: Path) -> Iterator[There]:
    made = There(tmp_path)
    try:
        yield made
        assert not made.server.faults
    finally:
        made.server.stop()
        made.handed.close()


async def asked(do: Callable[[], str]) -> str:
    return await asyncio.to_thread(do)


def test_it_says_hello_and_knows_all_after_the_snapshot(there: There) -> None:
    there.server.pods = {pod.uid: pod for pod in map(there.pod, "ab")}
    there.server.start()

    async def play() -> None:
        await there.whole()
        assert there.kernel.steps == ["Take a", "Take b"] and there.source.knows_all
        assert (there.source.pods, there.source.problem, len(there.handed)) == (2, "", 2)
        assert await asked(lambda: there.server.add(there.pod("c"))) == ""
        assert await asked(lambda: there.server.delete("u-a")) == ""
        assert there.kernel.steps[2:] == ["Take c", "Forget a"] and len(there.handed) == 2
        assert await asked(lambda: there.server.delete("u-a")) == ""
        there.kernel.back.add(there.namespace("b"))
        assert await asked(lambda: there.server.delete("u-b")) == ""
        assert there.kernel.steps[-1] == "LetGo b"
        assert there.source.requests == {
            ("add", "done"): 3, ("snapshotsent", "done"): 1, ("del", "done"): 3,
        }  # fmt: skip

    there.run(play)


def test_while_nobody_listens_it_says_so_and_what_was_named_stays(there: There) -> None:
    async def play() -> None:
        await there.until(lambda: "No such file" in there.source.error)
        assert "cannot be reached" in there.source.problem and "DaemonSet" in there.source.problem
        there.server.pods = {pod.uid: pod for pod in map(there.pod, "ab")}
        there.server.start()
        await there.whole()
        there.server.stop()
        await there.until(lambda: not there.source.is_connected)
        assert not there.source.has_snapshot and there.source.knows_all
        await there.kernel.follow()
        assert [key.name for key in there.kernel.wishes] == ["a", "b"]
        del there.server.pods["u-a"]
        there.kernel.back.add(there.namespace("a"))
        there.server.start()
        await there.whole()
        assert there.kernel.steps[-1] == "LetGo a" and [key.name for key in there.kernel.wishes] == ["b"]
        assert there.source.problem == "" and len(there.handed) == 1

    there.run(play)


def test_what_could_not_be_done_is_said_until_it_is(there: There) -> None:
    there.server.start()

    async def play() -> None:
        await there.whole()
        there.kernel.refusal = "no veth"
        assert await asked(lambda: there.server.add(there.pod("a"))) == "pod demo/a is not captured: no veth"
        assert "pod demo/a is not captured: no veth" in there.source.problem
        assert [key.name for key in there.kernel.wishes] == ["a"], "it stays wished for, and closed"
        there.kernel.refusal = ""
        assert await asked(lambda: there.server.add(there.pod("a"))) == ""
        assert there.source.problem == ""
        there.kernel.refusal = "no veth"
        assert await asked(lambda: there.server.add(there.pod("b")))
        assert await asked(lambda: there.server.delete("u-b")) == "" and there.source.problem == ""

    there.run(play)


@pytest.mark.parametrize("packet", [b"\xff", delete("u"), b"\x1a\x00", add(Named("u", "a", None))])
def test_what_breaks_the_protocol_is_answered_and_ends_the_connection(there: There, packet: bytes) -> None:
    there.server.start()
    paths = [there.pod("a").netns] * (packet == delete("u"))

    async def play() -> None:
        await there.whole()
        assert await asked(lambda: there.server.ask(packet, *paths))
        await there.until(lambda: there.server.connections == 2)
        await there.whole()
        assert there.source.requests["unknown", "refused"] == 1 and not len(there.handed)

    there.run(play)


def test_an_answer_that_nobody_waits_for_is_not_given(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zds_source, "ANSWER_S", -1.0)
    there.server.start()

    async def play() -> None:
        await there.until(lambda: bool(there.server.faults))
        assert "closed the connection" in there.server.faults[0]
        assert "nobody waits for it" in there.source.error
        monkeypatch.undo()
        await there.whole()
        there.server.faults.clear()

    there.run(play)


def test_a_process_that_is_not_roots_does_not_say_who_is_captured(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        # Whose a socket is, is who began to listen.
        code = "import os, socket, sys; os.setuid(65534); socket.socket(fileno=int(sys.argv[1])).listen()"
        subprocess.run(
            [sys.executable, "-c", code, str(listener.fileno())], pass_fds=[listener.fileno()], check=True
        )
        with pytest.raises(PermissionError, match="user 65534 listens there"):
            PacketSocket(str(path))
