"""Has pins that somebody removes made again at once: if this process were killed before, their pods would be open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from agent.watch.news import follow
from redirect.pin_watch import PinWatch


async def keep_pins(directories: Callable[[], Iterable[Path]], mend: Callable[[], Awaitable[None]]) -> None:
    """Call `mend` after each removal in one of them, until cancelled. Raises OSError where they cannot be watched."""
    await follow(PinWatch(), directories, mend)
