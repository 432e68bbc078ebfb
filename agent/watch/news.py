"""Acts on news of the kernel as they come, until cancelled: the loop of those that hear of one thing each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol


class Watch(Protocol):
    """Readable when there is news; what they are is looked up by whoever acts."""

    def fileno(self) -> int: ...

    def watch(self, paths: Iterable[Path]) -> None:
        """These, besides those that were; one that was made anew is another."""

    def read(self) -> None:
        """Takes what was told. Never blocks."""

    def close(self) -> None: ...


async def follow(
    watch: Watch,
    paths: Callable[[], Iterable[Path]],
    act: Callable[[], Awaitable[object]],
    melt_s: float = 0.0,
) -> None:
    """Call `act` after news of these paths, those of `melt_s` seconds together; closes the watch at the end."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        watch.read()
        told.set()

    loop.add_reader(watch.fileno(), hear)
    try:
        while True:
            # First, so that what happens from here on is told; again each time, for those that were made anew.
            watch.watch(paths())
            await told.wait()
            if melt_s:
                await asyncio.sleep(melt_s)
            told.clear()
            await act()
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()
