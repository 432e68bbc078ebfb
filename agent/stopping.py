"""The end of serving: nobody who was accepted is dropped for it, and who comes meanwhile waits for the next agent.

Order is everything here. First the kernel stops handing new connections over; then those on the way in arrive and are
accepted; only then the workers stop accepting, tell their peers, and end when nothing is left.
"""

from __future__ import annotations

import asyncio
import logging

from agent.enroll.kernel import KernelSide
from agent.supervisor.crew import Crew
from agent.supervisor.patience import within
from redirect.errors import RedirectError

log = logging.getLogger(__name__)

# A second of answers that are on their way; what takes longer comes from a peer that is gone.
QUIET_PATIENCE_S, QUIET_POLL_S = 1.0, 0.01


async def stop_serving(kernel: KernelSide, crew: Crew, drain_s: float) -> None:
    """Stop every worker; live connections may finish for `drain_s`."""

    async def quiet() -> None:
        """Return when no handshake is half done and no accept queue holds anything."""
        while True:
            if crew.queues.are_empty and not await kernel.run(lambda redirection: redirection.half_open()):
                return
            await asyncio.sleep(QUIET_POLL_S)

    log.info("stopping: workers drain for %g s", drain_s)
    try:
        await kernel.run(lambda redirection: redirection.clear_listeners())
        await within(QUIET_PATIENCE_S, quiet)
    except (RedirectError, OSError) as error:
        # Also a TimeoutError, which says nothing: a peer that never answers must not hold up the stop.
        reason = str(error) or "their peers do not answer"
        log.warning("connections that are being opened now will be reset: %s", reason)
    await crew.drain(drain_s)
