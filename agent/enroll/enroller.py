"""Carries enrolments out: checks, certificate, workers, kernel, and only then the news to the control plane.

The one writer of the kernel side: every change of the set goes through `_apply`, one at a time. A step that
fails is named to whoever asked; a pod that was captured stays captured, and closed. After a restart the pods
are found again in the pins and stay captured until the mesh state says who they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from agent.enroll.desired import (
    EnrolledPod,
    EnrolmentRefused,
    check,
    enrolled_pod,
    recognise,
)
from agent.enroll.kernel import KernelSide, Place
from agent.model.address import IP
from agent.model.identity import Identity
from agent.state.apply import Changes
from agent.state.snapshot import Snapshot
from agent.state.store import Store

log = logging.getLogger(__name__)

CERTIFICATE_TIMEOUT_S = 15.0


class Enroller:
    """The pods of this node that are captured."""

    def __init__(
        self,
        node: str,
        network: str,
        store: Store,
        kernel: KernelSide,
        certify: Callable[[Identity], Awaitable[object]],
        in_use: Callable[[frozenset[Identity]], None],
        tell_workers: Callable[[Iterable[EnrolledPod]], None],
        announce: Callable[[Iterable[EnrolledPod]], None],
    ) -> None:
        self._node = node
        self._network = network
        self._store = store
        self._kernel = kernel
        self._certify = certify
        self._in_use = in_use
        self._tell_workers = tell_workers
        self._announce = announce
        self._one_at_a_time = asyncio.Lock()
        self.pods: dict[str, EnrolledPod] = {}
        self.unrecognised: tuple[Place, ...] = ()
        """Captured before a restart, but the mesh state does not say who they are: closed."""
        self.gone: dict[str, str] = {}
        """Enrolled pods that are in trouble: key -> reason."""

    async def enroll(self, place: Place, namespace: str, name: str, *, keep_existing: bool) -> dict[str, Any]:
        """Capture a pod. Raises EnrolmentRefused, or the kernel side's own errors."""
        async with self._one_at_a_time:
            if place.refusal:
                raise EnrolmentRefused(f"pod {namespace}/{name}: {place.refusal}")
            workload = check(
                self._store.current, self._node, namespace, name, place.addresses, self.pods.values()
            )
            pod = enrolled_pod(workload, place.addresses, place.ifindex, place.ifname)
            await self._obtain_certificate(pod)
            self.unrecognised = tuple(p for p in self.unrecognised if p.ifindex != place.ifindex)
            notes = await self._apply({**self.pods, pod.key: pod}, keep_existing=keep_existing)
            self._announce(self.pods.values())
            log.info("enrolled %s as %s on %s", pod.key, pod.identity, pod.ifname)
            return {
                "identity": str(pod.identity),
                "ifname": pod.ifname,
                "addresses": list(map(str, pod.addresses)),
                "notes": notes,
            }

    async def unenroll(self, namespace: str, name: str) -> None:
        """Let a pod go. Peers are told first, so that they stop dialling its tunnel port."""
        async with self._one_at_a_time:
            key = f"{namespace}/{name}"
            if key not in self.pods:
                raise EnrolmentRefused(
                    f"pod {key} is not enrolled here; `ztun status -o json` lists those that are"
                )
            remaining = {k: pod for k, pod in self.pods.items() if k != key}
            self._announce(remaining.values())
            await self._apply(remaining, keep_existing=False)
            log.info("un-enrolled %s", key)

    async def adopt(self) -> None:
        """Find the pods that an earlier agent captured, and who they are by the first complete state."""
        async with self._one_at_a_time:
            pods, unknown = {}, []
            for place in await self._kernel.captured():
                workload = recognise(self._store.current, self._node, self._network, place.addresses)
                if workload is None:
                    log.error(
                        "%s (%s) is captured but unknown to the mesh: closed", place.ifname, place.addresses
                    )
                    unknown.append(place)
                    continue
                pod = enrolled_pod(workload, place.addresses, place.ifindex, place.ifname)
                pods[pod.key] = pod
            self.unrecognised = tuple(unknown)
            await self._apply(pods, keep_existing=True)
            self._announce(self.pods.values())

    async def refresh(self) -> None:
        """Drop pods whose interface is gone: after news from netlink."""
        async with self._one_at_a_time:
            present = await self._kernel.interfaces()
            remaining = {key: pod for key, pod in self.pods.items() if pod.ifindex in present}
            self.unrecognised = tuple(p for p in self.unrecognised if p.ifindex in present)
            for key in self.pods.keys() - remaining.keys():
                log.info("the interface of %s is gone: no longer enrolled", key)
            was = set(self.pods)
            await self._apply(remaining, keep_existing=True)
            if was != set(self.pods):
                self._announce(self.pods.values())

    def state_changed(self, snapshot: Snapshot, changes: Changes) -> None:
        """Note which enrolled pods the mesh state no longer agrees about: they are closed by their workers."""
        if changes.workloads:
            self.gone = {key: reason for key, pod in self.pods.items() if (reason := trouble(snapshot, pod))}

    @property
    def is_settled(self) -> bool:
        return not self.unrecognised and not self.gone

    async def _obtain_certificate(self, pod: EnrolledPod) -> None:
        self._in_use(frozenset([*self._identities(), pod.identity]))
        try:
            async with asyncio.timeout(CERTIFICATE_TIMEOUT_S):
                await self._certify(pod.identity)
        except TimeoutError:
            self._in_use(self._identities())
            raise EnrolmentRefused(
                f"no certificate for {pod.identity} came within {CERTIFICATE_TIMEOUT_S:g} s; "
                "is the certificate authority reachable? `ztun status` has its last error"
            ) from None
        except BaseException:
            self._in_use(self._identities())
            raise

    def _identities(self) -> frozenset[Identity]:
        return frozenset(pod.identity for pod in self.pods.values())

    async def _apply(self, pods: dict[str, EnrolledPod], *, keep_existing: bool) -> list[str]:
        """Make the kernel side capture exactly these, with the workers knowing them before it does."""
        merged = {**self.pods, **pods}
        self._tell_workers(merged.values())
        notes = await self._kernel.capture(pods.values(), self.unrecognised, keep_existing=keep_existing)
        self.pods = pods
        self._tell_workers(pods.values())
        self._in_use(self._identities())
        self.state_changed(self._store.current, Changes(workloads=frozenset({"*"})))
        return notes


def trouble(snapshot: Snapshot, pod: EnrolledPod) -> str:
    """Why the pod's connections are refused although it is captured; empty when they are not."""
    workload = snapshot.local_workload(pod.namespace, pod.name, pod.service_account)
    if workload is None:
        return f"pod {pod.key} is enrolled, but the control plane no longer lists it here"
    missing: list[IP] = [ip for ip in pod.addresses if ip not in workload.addresses]
    if missing:
        return (
            f"pod {pod.key} is enrolled with {', '.join(map(str, missing))}, which is no longer its address"
        )
    return ""
