"""What tests of one process must not do to each other."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import grpc
import pytest

from redirect import netns

TASKS = Path("/proc/self/task")


def namespaces() -> set[int]:
    """Of the threads of this process."""
    return {path.stat().st_ino for path in TASKS.glob("*/ns/net")}


@pytest.mark.kernel
def test_a_fork_in_a_namespace_leaves_no_thread_of_grpc_there() -> None:
    name = f"ztun-fork-{os.getpid()}"

    async def scene() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with netns.entered(netns.create(name)):
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)  # noqa: ASYNC222 - nothing else is to run in between
        assert len(namespaces()) == 1
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
        await server.stop(0)

    try:
        asyncio.run(scene())
    finally:
        netns.remove(name)
