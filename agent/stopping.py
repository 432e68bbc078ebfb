"""The end of serving: nobody who was accepted is dropped for it, and who comes meanwhile waits for the next agent.

Order is everything here. First the kernel stops handing over what pods open; then what comes for pods, for what a pod
has opened may come back to this node; then those on the way in arrive and are accepted; only then the workers stop
accepting, tell their peers, and end when nothing is left. Or they go on without this process (agent.succession).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress

from agent.channel import ChannelError
from agent.config import Config
from agent.enroll.kernel import KernelSide
from agent.model.counted import counted
from agent.model.listener import OUTBOUND
from agent.run_lock import RunLock
from agent.succession import LeftServing
from agent.supervisor.crew import Crew
from agent.supervisor.patience import within
from redirect import outlive
from redirect.child import WITHOUT_MEANING
from redirect.errors import RedirectError

log = logging.getLogger(__name__)

# A second of answers that are on their way; what takes longer comes from a peer that is gone.
QUIET_PATIENCE_S, QUIET_POLL_S = 1.0, 0.01
PODS_PATIENCE_S = 0.3
"""Those of pods of this node are answered at once."""


def hear_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`; what means nothing here is said to be ignored, and is."""
    running = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(signum, stop.set)
    for signum in WITHOUT_MEANING:
        running.add_signal_handler(signum, _ignored, signum)


def _ignored(signum: signal.Signals) -> None:
    log.warning(
        "%s is ignored: nothing is read anew by a signal; options count from the next start", signum.name
    )


async def stop_serving(
    kernel: KernelSide, crew: Crew, settings: Config, lock: RunLock | None, steps_aside: bool
) -> LeftServing:
    """Have the next agent serve, as far as that is prepared; the workers that this process has to see off then.

    `lock`: of the run directory; None: this agent did not serve yet. Who steps aside leaves them in any case.
    """
    workers = tuple(link.pid for link in crew.everyone)
    if lock is not None and await outlived(crew, settings):
        return LeftServing(workers if steps_aside else (), stands_by=steps_aside)
    if steps_aside or (lock is not None and lock.is_awaited):
        log.info("stopping: the next agent waits already, the workers serve until its own do")
        return LeftServing(workers, stands_by=steps_aside)
    await drain(kernel, crew, settings.drain_deadline_s)
    return LeftServing()


async def drain(kernel: KernelSide, crew: Crew, drain_s: float) -> None:
    """Stop every worker; live connections may finish for `drain_s`."""

    async def quiet() -> None:
        """Return when no handshake is half done and no accept queue holds anything."""
        while True:
            if crew.queues.are_empty and not await kernel.run(lambda redirection: redirection.half_open()):
                return
            await asyncio.sleep(QUIET_POLL_S)

    async def settled() -> None:
        """The same, and what was accepted last has been dialled: it is half done itself, or quiet as well."""
        await quiet()
        await asyncio.sleep(QUIET_POLL_S)
        await quiet()

    log.info("stopping: workers drain for %g s", drain_s)
    try:
        await kernel.run(lambda redirection: redirection.clear_listeners(OUTBOUND.name))
        with suppress(TimeoutError):
            await within(PODS_PATIENCE_S, settled)
        await kernel.run(lambda redirection: redirection.clear_listeners())
        await within(QUIET_PATIENCE_S, quiet)
    except (RedirectError, OSError) as error:
        # Also a TimeoutError, which says nothing: a peer that never answers must not hold up the stop.
        reason = str(error) or "their peers do not answer"
        log.warning("connections that are being opened now will be reset: %s", reason)
    await crew.drain(drain_s)


async def outlived(crew: Crew, settings: Config) -> bool:
    """Whether the workers serve without this process from now on, until the next agent comes or time is up."""
    if not settings.succession_s:
        return False
    workers = crew.everyone
    told = await asyncio.gather(
        *(link.go_on(settings.succession_s, settings.drain_deadline_s) for link in workers),
        return_exceptions=True,
    )
    # Only those that know when to end: the others end with the container.
    pids = []
    for link, failure in zip(workers, told, strict=True):
        if failure is None:
            pids.append(link.pid)
        elif isinstance(failure, TimeoutError | ChannelError):
            log.warning("%s does not hear that it shall serve on: %s", link, str(failure) or "no answer")
        else:
            raise failure
    if not pids:
        return False
    try:
        outlive.leave(pids)
    except OSError as error:
        log.warning(
            "the workers cannot leave the control groups of this container, so they end with it: %s", error
        )
        return False
    log.info(
        "stopping: %s until the next agent takes over, %g s at most",
        counted(len(pids), "worker serves", "workers serve"),
        settings.succession_s,
    )
    return True
