"""An agent without descriptors says so once, and answers when it has some again."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.admin.exhausted import say_seldom


@contextmanager
def no_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(number) for number in os.listdir("/proc/self/fd")}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_who_knocks_while_there_is_no_descriptor_is_one_line_and_is_answered_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def answered() -> bytes:
        loop = asyncio.get_running_loop()
        say_seldom(loop)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"here")
            writer.close()

        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            async with await asyncio.start_unix_server(serve, tmp_path / "s"):
                with no_descriptors():
                    await loop.sock_connect(client, str(tmp_path / "s"))
                    for _ in range(10):  # of its turns
                        await asyncio.sleep(0)
                return await loop.sock_recv(client, 10)

    assert asyncio.run(answered()) == b"here"
    (said,) = caplog.messages
    assert said.startswith("questions to this agent wait: ") and "Too many open files" in said


def test_other_defects_are_told_as_before(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        loop = asyncio.get_running_loop()
        say_seldom(loop)
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(broken())
    assert "ZeroDivisionError" in caplog.text
