"""Follows netlink for as long as the agent runs: interfaces and filters that go, addresses of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redirect import host_addresses


async def follow_interfaces(refresh: Callable[[], Awaitable[None]]) -> None:
    """Call `refresh` after each piece of news, one at a time, until cancelled. News meanwhile melt into one."""
    changed = asyncio.Event()
    watch = host_addresses.Watch()
    asyncio.get_running_loop().add_reader(watch.fileno(), changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            if watch.read():
                await refresh()
    finally:
        asyncio.get_running_loop().remove_reader(watch.fileno())
        watch.close()
