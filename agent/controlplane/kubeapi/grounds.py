"""What a control plane in a cluster stands on in place of files: joins the parts of this room.

`ready` returns when everything was mirrored once and the authority is there; whatever is missing for that is tried
again and said, because a person may be putting it right (a role, the CRDs).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from agent.controlplane.kubeapi.authority import ClusterAuthority
from agent.controlplane.kubeapi.callers import Callers
from agent.controlplane.kubeapi.following import Following
from agent.controlplane.kubeapi.mirror import Mirror
from agent.controlplane.serve.ca import Authority, Clock
from agent.kubernetes.access import Access
from agent.kubernetes.connection import RequestFailed
from agent.model.backoff import Backoff

BACKOFF = Backoff(first_s=0.25, cap_s=10.0, jitter=0.3)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """`access` is asked for each request. `namespace`: of Secret and ConfigMap; `agents`: NAMESPACE/NAME of theirs."""

    access: Callable[[], Access]
    namespace: str
    agents: str


class Grounds:
    """`run` until cancelled. `authority` is there after `ready`.

    `notices`: which files of the mirror have changed, as `read.notices.watch` tells it.
    """

    def __init__(
        self, following: Following, callers: Callers, authority: ClusterAuthority, rng: Random
    ) -> None:
        self._following, self._callers, self._cluster_authority = following, callers, authority
        self._rng = rng
        self._authority: Authority | None = None
        self.node_of = callers.node_of
        self.notices = following.notices

    @property
    def authority(self) -> Authority:
        assert self._authority is not None, "asked for before `ready`"
        return self._authority

    async def run(self) -> None:
        await self._following.run()

    async def ready(self) -> None:
        """Raises StateError for an authority that nobody can use."""
        await self._following.whole.wait()
        failures, said = 0, ""
        while self._authority is None:
            try:
                self._authority = await asyncio.to_thread(self._cluster_authority.open)
            except RequestFailed as failed:
                failures += 1
                if said != (said := str(failed)):
                    log.warning("no certificate authority yet: %s", failed)
                await asyncio.sleep(max(BACKOFF.delay_s(failures, self._rng), failed.failure.retry_after_s))


@contextmanager
def grounds(way: Way, directory: Path, trust_domain: str, clock: Clock) -> Iterator[Grounds]:
    """Raises StateError where the directory cannot be made."""
    rng = Random(SystemRandom().getrandbits(64))
    mirror = Mirror(directory)
    callers = Callers(way.access, mirror, way.agents)
    authority = ClusterAuthority(way.access, way.namespace, trust_domain, clock)
    try:
        yield Grounds(Following(way.access, mirror, rng), callers, authority, rng)
    finally:
        callers.close()
