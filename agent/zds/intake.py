"""Carries out what istio-cni asks for, one request after the other.

An answer waits for the kernel side and for nothing else: not for discovery, nor for a certificate. What is known of a
pod stays known until it is decided what becomes of it, so that no turn in between takes it for gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from agent.enroll.handed import HandedNamespaces, NotHanded
from agent.enroll.source import Claim, NotReady
from agent.enroll.wish import PodKey, Wish
from agent.wire.zds import Add, Del, Keep, Request, SnapshotSent
from agent.zds.packets import Packet
from agent.zds.roster import NamedPod, NamespaceTaken, Roster
from redirect.errors import RedirectError
from redirect.netns import NamespaceId

log = logging.getLogger(__name__)

ADMIT_S = 3.0
"""How long a pod has to be captured; istio-cni waits 5 s for an answer."""


class Admitting(Protocol):
    """Admission of agent.enroll."""

    @property
    def wishes(self) -> Mapping[PodKey, Wish]: ...

    async def follow(self) -> None: ...

    async def admit(self, key: PodKey, claim: Claim, namespace: NamespaceId, wait_s: float) -> None: ...

    async def is_let_go(self, namespace: NamespaceId) -> bool: ...


class Refused(Exception):
    """A request that could not be done; the text is for whoever asked."""


class Intake:
    """`refusals`: what was answered for pods that could not be done, by uid."""

    def __init__(self, roster: Roster, handed: HandedNamespaces, admission: Admitting) -> None:
        self._roster = roster
        self._handed = handed
        self._admission = admission
        self.refusals: dict[str, str] = {}

    async def carry_out(self, request: Request, packet: Packet) -> None:
        """Raises Refused. Of the packet only the descriptor is used."""
        match request:
            case Add():
                await self._add(request, packet)
            case Keep(uid):
                self._roster.keep(uid, self._admission.wishes)
            case Del(uid):
                self.refusals.pop(uid, None)
                pod = self._roster.find(uid, self._admission.wishes)
                if pod is not None:
                    await self._end([pod])
            case SnapshotSent():
                await self._end(self._roster.unheard(self._admission.wishes))
                self._roster.is_complete = True
                await self._admission.follow()
        self._handed.keep_only(self._roster.namespaces)

    async def _add(self, add: Add, packet: Packet) -> None:
        key = PodKey(add.namespace, add.name)
        try:
            namespace = await asyncio.to_thread(self._handed.take, packet.take())
            pod = NamedPod(add.uid, key, add.service_account, namespace)
            self._roster.add(pod)
            await self._admission.admit(key, pod.claim, namespace, ADMIT_S)
        except (NotHanded, NamespaceTaken, NotReady, RedirectError, OSError) as error:
            text = f"pod {key} is not captured: {str(error) or f'not within {ADMIT_S:g} s'}"
            self.refusals[add.uid] = text
            raise Refused(text) from error
        self.refusals.pop(add.uid, None)

    async def _end(self, pods: list[NamedPod]) -> None:
        for pod in pods:
            try:
                is_let_go = await self._admission.is_let_go(pod.namespace)
            except (RedirectError, OSError) as error:
                log.warning("pod %s stays closed: %s", pod.key, error)
                is_let_go = False
            self._roster.end(pod, is_let_go=is_let_go)
        if pods:
            await self._admission.follow()
