"""Has the kernel side looked at as soon as something changes in a private namespace; a proof would find it later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from redirect.errors import RedirectError
from redirect.private_watch import PrivateWatch

log = logging.getLogger(__name__)

MELT_S = 0.05
"""Who takes away one thing may take another: one look for all of it."""


async def hear_private_news(
    namespaces: Callable[[], Iterable[Path]], look: Callable[[], Awaitable[object]]
) -> None:
    """Call `look` after each change in one of them, until cancelled. Raises OSError where they cannot be heard."""
    watch = PrivateWatch()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        watch.read()
        told.set()

    loop.add_reader(watch.fileno(), hear)
    try:
        while True:
            # Before each wait: a namespace may have been made anew.
            watch.watch(namespaces())
            await told.wait()
            await asyncio.sleep(MELT_S)
            told.clear()
            try:
                await look()
            except (RedirectError, OSError) as error:
                log.warning(
                    "the kernel side could not be looked at after a change; the next proof does: %s", error
                )
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()
