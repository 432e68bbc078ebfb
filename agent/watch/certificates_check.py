"""Would peers accept the certificate of every pod that is served?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable

from agent.enroll.enrolled_pod import EnrolledPod
from agent.identity.keeper import Keeper
from agent.identity.own_check import OwnChecks
from agent.model.identity import Identity
from agent.proof.findings import Finding, Link

REMEDY = "look at what the CA issues, and at its root; the agent asks again when half of the lifetime is over"


class CertificatesCheck:
    """A check of the prover. `pods` answers those that are served; `wall` is seconds since the epoch.

    An identity without any certificate is the keeper's to name.
    """

    def __init__(
        self, keeper: Keeper, pods: Callable[[], Iterable[EnrolledPod]], wall: Callable[[], float]
    ) -> None:
        self._keeper, self._pods, self._wall = keeper, pods, wall
        self._checks = OwnChecks()

    async def __call__(self) -> list[Finding]:
        pods: defaultdict[Identity, list[str]] = defaultdict(list)
        for pod in self._pods():
            pods[pod.identity].append(str(pod.key))
        self._checks.keep_only(pods.keys())
        found = []
        for identity, keys in pods.items():
            reason = await self._refusal(identity)
            if reason:
                text = f"peers would refuse the certificate of {identity}: {reason}"
                found += [Finding(Link.CERTIFICATE, key, text, REMEDY) for key in keys]
        return found

    async def _refusal(self, identity: Identity) -> str:
        issued = self._keeper.get(identity)
        if issued is None:
            return ""
        if not self._checks.is_known(issued, self._wall()):
            # A handshake takes milliseconds: between two of them the others have their turn.
            await asyncio.sleep(0)
        return self._checks.refusal(issued, self._wall())
