"""What others take out of the run directory of an agent that lives is there again before the next agent needs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.enroll.wish import PodKey, Where, Wish
from agent.enroll.wish_book import WishBook
from agent.enroll.wish_file import WishFile
from agent.run_lock import RunLock
from agent.watch.run_directory import RunDirectory

POD = PodKey("demo", "a")


class Wishes:
    """A book as the agent has it."""

    def __init__(self, book: WishBook) -> None:
        self._book = book

    @property
    def are_wishes_kept(self) -> bool:
        return self._book.is_kept

    def keep_wishes(self) -> None:
        self._book.keep()


async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text('{"version": 3, "boot_id": "another", "wishes": []}'),
        lambda path: path.write_text("no record"),
    ],
    ids=["removed", "emptied", "of nobody", "damaged"],
)
def test_the_record_of_wishes_is_what_the_next_agent_needs(
    tmp_path: Path, harm: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wishes.json"
    book = WishBook(WishFile(tmp_path))
    book.load()
    book.add(Wish(POD, Where(netns="/run/netns/a")), None)

    async def scenario() -> None:
        servers = []

        async def listen(socket: Path) -> None:
            servers.append(await asyncio.start_unix_server(nobody, socket))

        with RunLock(tmp_path) as lock:
            check = RunDirectory(tmp_path, lock, Wishes(book))
            await check.open(listen)
            assert await check() == [] and not caplog.records
            socket = (tmp_path / "agent.sock").stat()
            harm(path)
            assert await check() == []
            assert WishFile(tmp_path).load().keys() == {POD}
            assert await check() == []
            assert [
                record.getMessage() for record in caplog.records if "record of wishes" in record.getMessage()
            ]
            assert (tmp_path / "agent.sock").stat() == socket, "what is whole is left alone"
            assert len(servers) == 1
            servers[0].close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert len(caplog.records) == 1
