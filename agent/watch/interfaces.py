"""Follows netlink for as long as the agent runs: interfaces of pods that go, addresses of the node that come and go."""

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
            if watch.read() & {host_addresses.News.LINKS, host_addresses.News.ADDRESSES}:
                await refresh()
    finally:
        asyncio.get_running_loop().remove_reader(watch.fileno())
        watch.close()
