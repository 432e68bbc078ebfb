"""Has the kernel side looked at as soon as something changes in a private namespace; a proof would find it later."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from agent.watch.news import follow
from redirect.errors import RedirectError
from redirect.private_watch import PrivateWatch

log = logging.getLogger(__name__)

MELT_S = 0.05
"""Who takes away one thing may take another: one look for all of it."""


async def hear_private_news(
    namespaces: Callable[[], Iterable[Path]], look: Callable[[], Awaitable[object]]
) -> None:
    """Call `look` after each change in one of them, until cancelled. Raises OSError where they cannot be heard."""

    async def look_or_say() -> None:
        try:
            await look()
        except (RedirectError, OSError) as error:
            log.warning(
                "the kernel side could not be looked at after a change; the next proof does: %s", error
            )

    await follow(PrivateWatch(), namespaces, look_or_say, MELT_S)
