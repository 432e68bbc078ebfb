"""Keeps the neighbours of captured pods on bridges true for as long as the agent runs.

What the programs ask is looked up four times a second: a SYN that met an unknown neighbour is sent again after one,
so being told at once would gain nothing. Neighbours that are used are verified every ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.enroll.kernel import KernelSide
from redirect.errors import RedirectError
from redirect.reconcile import Redirection

log = logging.getLogger(__name__)

ANSWER_EVERY_S = 0.25
ANSWERS_PER_VERIFICATION = 40


async def keep_neighbours(
    kernel: KernelSide, are_on_bridge: Callable[[], bool], every_s: float = ANSWER_EVERY_S
) -> None:
    """Answer and verify, until cancelled; nothing to do while no captured pod is on a bridge (`are_on_bridge`)."""
    problem, count = "", 0
    while True:
        await asyncio.sleep(every_s)
        if not are_on_bridge():
            continue
        count += 1
        try:
            await kernel.run(_verify if count % ANSWERS_PER_VERIFICATION == 0 else _answer)
            problem = ""
        except (RedirectError, OSError) as error:
            if str(error) != problem:
                problem = str(error)
                log.warning("neighbours of captured pods cannot be asked for: %s", problem)


def _answer(redirection: Redirection) -> None:
    redirection.neighbourhood.answer()


def _verify(redirection: Redirection) -> None:
    redirection.neighbourhood.verify()
