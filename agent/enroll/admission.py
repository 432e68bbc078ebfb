"""Takes in pods that were in another mesh up to now: closed first, then cleaned of what leads their packets elsewhere.

For sources that name pods which somebody else has prepared for a proxy inside of them. Between the two steps nothing
passes, and at no time is a pod open that was not before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from agent.enroll.captures import Captures
from agent.enroll.enroller import Enroller
from agent.enroll.kernel import KernelSide
from agent.enroll.source import Claim, NotReady
from agent.enroll.wish import PodKey, WantedBy, Wish
from redirect.errors import PodNotFound, RedirectError
from redirect.netns import NamespaceId


class Admission:
    """`enroller` follows the source that asks."""

    def __init__(
        self,
        enroller: Enroller,
        captures: Captures,
        kernel: KernelSide,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enroller = enroller
        self._captures = captures
        self._kernel = kernel
        self._clock = clock

    @property
    def wishes(self) -> Mapping[PodKey, Wish]:
        return self._captures.wishes

    async def follow(self) -> None:
        """Have done what the sources say now."""
        await self._enroller.refresh()

    async def admit(self, key: PodKey, claim: Claim, namespace: NamespaceId, wait_s: float) -> None:
        """Return when a pod that a source names is captured, be it closed, and nothing in it leads past that.

        Raises NotReady; its wish stands all the same.
        """
        ends_s = self._clock() + wait_s
        await self._enroller.refresh()
        if self._captures.is_closed(key):
            try:
                found = await self._kernel.take_out_rules(namespace)
            except (RedirectError, OSError) as error:
                raise NotReady(
                    f"closed, and what leads its connections elsewhere stays in it: {error}"
                ) from error
            if found.leads:
                self._captures.history.note(key, f"taken out of pod {key}: {found}")
                await self._enroller.refresh()
        if self._is_somebody_elses(key, namespace):
            return
        await self._enroller.captured(key, claim, max(0.0, ends_s - self._clock()))

    def _is_somebody_elses(self, key: PodKey, namespace: NamespaceId) -> bool:
        """Whether a person had it captured there before: then it stays that person's."""
        wish = self._captures.wishes.get(key)
        is_meant = wish is not None and (wish.wanted_by, wish.namespace) == (WantedBy.COMMAND, namespace)
        return is_meant and self._captures.is_captured(key)

    async def is_let_go(self, namespace: NamespaceId) -> bool:
        """Whether whoever prepared a pod has taken that back, and the pod is there: it may be in clear from now on."""
        try:
            return not await self._kernel.is_redirected(namespace)
        except PodNotFound:
            return False
