"""Has pins that somebody removes made again at once: if this process were killed before, their pods would be open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from redirect.pin_watch import PinWatch


async def keep_pins(directories: Callable[[], Iterable[Path]], mend: Callable[[], Awaitable[None]]) -> None:
    """Call `mend` after each removal in one of them, until cancelled. Raises OSError where they cannot be watched."""
    watch = PinWatch()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        watch.read()
        told.set()

    loop.add_reader(watch.fileno(), hear)
    try:
        while True:
            # First, so that what is removed from here on is told; again each time, for those that were made anew.
            watch.watch(directories())
            await told.wait()
            told.clear()
            await mend()
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()
