"""The enroller's way to the kernel side: blocking netlink and bpf(2) work, off the event loop.

Everything runs in one thread, so there is one writer. It remembers nothing: what is desired is made of the places
that come with each call, and the kernel's own addresses are read anew each time. Names of pods do not reach
`redirect`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from agent.enroll.wish import Where
from agent.model.address import IP
from redirect import host_addresses
from redirect.desired import Desired
from redirect.errors import RedirectError, StepsFailed
from redirect.locate import Place, locate
from redirect.reconcile import Redirection

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one change: `notes` are for whoever asked, `failures` say which interface they concern."""

    notes: tuple[str, ...] = ()
    failures: tuple[RedirectError, ...] = ()


class KernelSide:
    """Owns the Redirection; every method is awaited from the event loop."""

    def __init__(self, redirection: Redirection) -> None:
        self._redirection = redirection
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")

    async def run(self, work: Callable[[Redirection], T]) -> T:
        """Do something with the Redirection in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._redirection)

    async def locate(self, where: Where) -> Place:
        """Where a pod is attached, or why it cannot be captured (`refusal`)."""
        return await self.run(lambda _: locate(netns=where.netns, pid=where.pid, ifname=where.ifname))

    async def captured(self) -> tuple[Place, ...]:
        """What the pins say is captured, with interfaces that still exist."""
        places = await self.run(lambda redirection: redirection.captured())
        return tuple(place for place in places if place.ifname)

    async def interfaces(self) -> frozenset[int]:
        """The ifindexes of this node."""
        return await self.run(lambda _: host_addresses.interfaces())

    async def capture(self, places: Iterable[Place], *, keep_existing: bool) -> Applied:
        """Capture exactly these interfaces. A pod that failed is closed; the others are done."""
        wanted = tuple(places)

        def work(redirection: Redirection) -> Applied:
            try:
                done = redirection.apply(desired(wanted, host_addresses.local()), keep_existing=keep_existing)
            except (RedirectError, OSError) as error:
                return Applied(failures=failures_of(error))
            for line in done:
                log.info("kernel: %s", line)
            return Applied(notes=tuple(line for line in done if "open connections" in line))

        return await self.run(work)

    def close(self) -> None:
        try:
            self._thread.submit(self._redirection.close).result()
        except (RedirectError, OSError) as error:
            log.error("captured pods may be open from now on: a link cannot be pinned (%s)", error)
        self._thread.shutdown(wait=True)


def desired(places: Iterable[Place], addresses: frozenset[IP]) -> Desired:
    """The kernel side's wish list."""
    pods = (place.desired() for place in sorted(places, key=lambda place: place.ifindex))
    return Desired(pods=tuple(pods), host_addresses=addresses)


def failures_of(error: RedirectError | OSError) -> tuple[RedirectError, ...]:
    match error:
        case StepsFailed():
            return error.failures
        case RedirectError():
            return (error,)
        case _:
            return (RedirectError(f"the kernel side cannot be read: {error}"),)
