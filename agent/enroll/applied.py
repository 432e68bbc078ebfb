"""What the kernel side was told last: what is to be told again is what differs, where nothing else has changed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from agent.enroll import left_closed
from agent.enroll.kernel import KernelSide
from agent.enroll.news import News
from redirect.errors import RedirectError
from redirect.findings import Finding
from redirect.place import Place

log = logging.getLogger(__name__)

Places = Mapping[int, Place]
"""By ifindex."""


class Applied:
    """`failures`: what the kernel refused the last time."""

    def __init__(self, kernel: KernelSide) -> None:
        self._kernel = kernel
        self._places: Places | None = None
        self.failures: tuple[RedirectError, ...] = ()

    async def capture(
        self,
        places: Places,
        news: News,
        failures: tuple[RedirectError, ...],
        keep_existing: Mapping[int, float],
    ) -> tuple[str, ...]:
        """Have exactly these captured; what whoever asked should know. `failures`: of the look before."""
        only = None
        if self._places is not None and not (news.is_of_node or self.failures or failures):
            only = _differing(places, self._places) | news.touched
            if not only:
                return ()
        done = await self._kernel.capture(places.values(), keep_existing=keep_existing, only=only)
        # A pod that failed is closed (or says that it is open); the others are done. The next time tries again.
        self._places = places
        self.fail(done.failures)
        return done.notes

    def closed(self, places: Iterable[Place]) -> None:
        """These were closed, so that nothing is to be applied for them before their pods are served."""
        if self._places is not None:
            self._places = {**self._places, **{place.ifindex: place for place in places}}

    async def prove(self) -> tuple[Finding, ...]:
        """What of it the kernel does not have, or not whole. Raises RedirectError, OSError."""
        return () if self._places is None else await self._kernel.prove(self._places.values())

    def fail(self, failures: tuple[RedirectError, ...]) -> None:
        self.failures = failures
        for failure in failures:
            log.error("the kernel side is not as it should be: %s", left_closed.words(failure))

    def failures_at(self, interfaces: Collection[int]) -> list[RedirectError]:
        """Those of interfaces, and of the whole node."""
        return [each for each in self.failures if each.ifindex is None or each.ifindex in interfaces]


def _differing(some: Places, others: Places) -> set[int]:
    # Of hundreds most are the very same: asked first, as comparing two of them takes long.
    return {
        each
        for each in some.keys() | others.keys()
        if some.get(each) is not others.get(each) and some.get(each) != others.get(each)
    }
