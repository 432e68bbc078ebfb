"""Keeps guards behind the captures, for as long as the agent runs: what closes pods where nothing captures them."""

from __future__ import annotations

import asyncio
import logging

from agent.enroll.abridged import abridged
from agent.enroll.kernel import KernelSide
from redirect.errors import RedirectError
from redirect.reconcile import Redirection

log = logging.getLogger(__name__)

EVERY_S = 2.0


async def keep_guards(kernel: KernelSide, every_s: float = EVERY_S) -> None:
    """Look, and put what is missing, until cancelled. Nothing is due at once: the agent holds the links itself."""
    problem = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            done = await kernel.run(Redirection.keep_guards)
            problem = ""
        except (RedirectError, OSError) as error:
            if str(error) != problem:
                problem = str(error)
                log.warning("guards of captured pods cannot be kept: %s", problem)
            continue
        for line in abridged(done):
            log.info("kernel: %s", line)
