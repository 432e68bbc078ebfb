"""Time limits that do not count how long this process itself stood still (SIGSTOP, a freezer, swap).

On waking every limit has passed at once, while what the others said meanwhile lies unread. So a limit is spent in
short turns of the loop, a turn that took far longer than it was asked to counts as a short one all the same, and what
lies ready is read before a limit is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

TURN_S = 0.25
RESTART_PAUSE_S = 0.05
RESTART_PAUSE_MAX_S = 5.0
T = TypeVar("T")


def awake_s(elapsed_s: float, asked_s: float) -> float:
    """How much of a wait counts that was to take `asked_s`: a busy loop is late, a stopped one later still."""
    return min(elapsed_s, 2 * asked_s)


async def catch_up() -> None:
    """Return when the loop has read what lies ready."""
    # A poll interrupted by SIGSTOP answers nothing when its time-out has passed on waking (PEP 475). The next one
    # does; its callbacks queue up behind this task's first turn.
    for _ in range(2):
        await asyncio.sleep(0)


async def within(patience_s: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """The attempt's result. It is cancelled and begun anew every turn, so it must keep what it has got so far.

    Raises TimeoutError after `patience_s` of being awake.
    """
    loop = asyncio.get_running_loop()
    while patience_s > 0:
        began_s, turn_s = loop.time(), min(patience_s, TURN_S)
        try:
            async with asyncio.timeout(turn_s):
                return await attempt()
        except TimeoutError:
            patience_s -= awake_s(loop.time() - began_s, turn_s)
    await catch_up()
    async with asyncio.timeout(0):
        return await attempt()


def longer(pause_s: float) -> float:
    """The pause before the next start of a worker, after this one did not help."""
    return min(max(RESTART_PAUSE_S, pause_s * 2), RESTART_PAUSE_MAX_S)


async def in_turn(chore: Callable[[], Awaitable[None]]) -> None:
    await chore()
