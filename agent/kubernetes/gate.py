"""What the CNI plugin asks: is this pod to be in the mesh, and if so, is it captured before its first packet?

The API may not have told of the pod yet, and does not know its address before the plugin has succeeded: the pod is
looked for where the runtime says it is, and held closed until the control plane lists it. Its certificate is fetched
meanwhile. While the API is away a pod that was never heard of is refused, and the kubelet tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from agent.enroll.source import Claim, NotReady, Stance
from agent.enroll.wish import PodKey
from agent.kubernetes.objects import Pod
from agent.kubernetes.sandbox import NotAdmitted, Sandbox
from agent.kubernetes.source import KubernetesSource
from agent.model.identity import Identity

PATIENCE_S = 10.0
"""For all of one ADD: less than the plugin's own."""
CERTIFICATE_PATIENCE_S = 5.0


class Capturing(Protocol):
    """The enroller. Waiting raises NotReady."""

    @property
    def trust_domain(self) -> str: ...

    def expecting(self, identity: Identity) -> AbstractContextManager[None]: ...

    async def captured(self, key: PodKey, claim: Claim, wait_s: float) -> None: ...

    async def certified(self, identity: Identity, wait_s: float) -> None: ...


class CniGate:
    """The answers of one agent."""

    def __init__(
        self,
        source: KubernetesSource,
        capturing: Capturing,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._source = source
        self._capturing = capturing
        self._clock = clock
        self._patience_s = patience_s
        self._heard = asyncio.Event()
        self._expected: dict[str, ExitStack] = {}
        """Identities of pods that the control plane does not list yet, by uid."""
        source.listen(self._on_news)

    async def add(self, sandbox: Sandbox) -> str:
        """Why the pod may start: it is captured, or not meant to be. Raises NotAdmitted."""
        ends_s = self._clock() + self._patience_s
        pod, claim = await self._known(sandbox, ends_s)
        if claim.stance is Stance.UNWANTED:
            return f"not captured: {claim.reason}"
        self._source.put_place(pod.uid, sandbox.container, sandbox.netns)
        try:
            claim = self._source.claim(sandbox.pod) or claim
            # First, as it comes from elsewhere: the pod is looked for meanwhile.
            identity = self._expect(pod)
            await self._capturing.captured(sandbox.pod, claim, max(0.0, ends_s - self._clock()))
            if identity is not None:
                left_s = max(0.0, min(CERTIFICATE_PATIENCE_S, ends_s - self._clock()))
                await self._capturing.certified(identity, left_s)
        except NotReady as error:
            self.delete(sandbox)
            raise NotAdmitted(f"pod {sandbox.pod} cannot be captured: {error or 'not in time'}") from error
        return f"captured: {claim.reason}"

    def delete(self, sandbox: Sandbox) -> None:
        """The sandbox goes, or is gone; said more than once."""
        self._source.drop_places(lambda container: container == sandbox.container)

    def check(self, sandbox: Sandbox) -> None:
        """Raises NotAdmitted where a pod that is to be captured is not."""
        pod = self._source.pod(sandbox.pod)
        claim = self._source.claim(sandbox.pod)
        if pod is None or claim is None or (sandbox.uid and pod.uid != sandbox.uid):
            raise NotAdmitted(f"pod {sandbox.pod} is not known{self._because()}")
        if claim.stance is Stance.WANTED:
            progress = self._source.progress(pod)
            if not progress.is_captured:
                raise NotAdmitted(f"pod {sandbox.pod} is not captured: {progress.trouble or 'not yet'}")

    def status(self) -> None:
        """Raises NotAdmitted while no pod could be admitted."""
        if self._source.claims() is None:
            raise NotAdmitted(f"the agent has not heard of the pods of this node yet{self._because()}")

    def keep_only(self, containers: Collection[str]) -> None:
        """The sandboxes that there are, as the runtime knows them."""
        self._source.drop_places(lambda container: container not in containers)

    async def _known(self, sandbox: Sandbox, ends_s: float) -> tuple[Pod, Claim]:
        while True:
            heard = self._heard
            pod, claim = self._source.pod(sandbox.pod), self._source.claim(sandbox.pod)
            is_it = pod is not None and sandbox.uid in ("", pod.uid)
            if pod is not None and claim is not None and is_it and self._is_decided(pod, claim):
                return pod, claim
            left_s = ends_s - self._clock()
            if left_s <= 0:
                raise NotAdmitted(f"pod {sandbox.pod} is not known{self._because()}")
            try:
                async with asyncio.timeout(left_s):
                    await heard.wait()
            except TimeoutError:
                continue

    def _is_decided(self, pod: Pod, claim: Claim) -> bool:
        """It has no address before it is admitted; everything else must be known."""
        return claim.stance is not Stance.UNDECIDED or self._source.is_namespace_known(pod.namespace)

    def _expect(self, pod: Pod) -> Identity | None:
        """Have its certificate fetched. None in an empty mesh: nobody could be talked to either."""
        trust_domain = self._capturing.trust_domain
        if not trust_domain:
            return None
        identity = Identity(trust_domain, pod.namespace, pod.service_account)
        expected = ExitStack()
        expected.enter_context(self._capturing.expecting(identity))
        former = self._expected.pop(pod.uid, None)
        self._expected[pod.uid] = expected
        if former is not None:
            former.close()
        return identity

    def _on_news(self) -> None:
        self._heard.set()
        self._heard = asyncio.Event()
        for uid in self._source.settled(self._expected.keys()):
            self._expected.pop(uid).close()

    def _because(self) -> str:
        problem = self._source.problem
        return (
            f": {problem}" if problem else " to the agent, which has not heard of it from the Kubernetes API"
        )
