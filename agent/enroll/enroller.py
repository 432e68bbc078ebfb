"""Carries enrolments out: checks, certificate, workers, kernel, and only then the news to the control plane.

The one writer of the kernel side: every change of the set goes through `_apply`, one at a time. A step that
fails is named to whoever asked; a pod that was captured stays captured, and closed. After a restart the pods
are found again in the pins and stay captured until the mesh state says who they are. Wishes say which pods are
wanted; `pods` are those that are captured, each with its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from agent.enroll.enrolled_pod import (
    EnrolledPod,
    EnrolmentRefused,
    check,
    enrolled_pod,
    recognise,
    trouble,
)
from agent.enroll.kernel import KernelSide
from agent.enroll.trouble import Missing, Trouble, dated
from agent.enroll.wish import PodKey, Wish
from agent.model.identity import Identity
from agent.model.workload import Workload
from agent.state.apply import Changes
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from redirect.errors import RedirectError
from redirect.locate import Place

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
        wall: Callable[[], float],
    ) -> None:
        self._node = node
        self._network = network
        self._store = store
        self._kernel = kernel
        self._certify = certify
        self._in_use = in_use
        self._tell_workers = tell_workers
        self._announce = announce
        self._wall = wall
        self._one_at_a_time = asyncio.Lock()
        self._has_adopted = False
        self._workloads_changed = asyncio.Event()
        self._failures: tuple[RedirectError, ...] = ()
        self.wishes: dict[PodKey, Wish] = {}
        self.pods: dict[PodKey, EnrolledPod] = {}
        self.unrecognised: tuple[Place, ...] = ()
        """Captured before a restart, but the mesh state does not say who they are: closed."""
        self.troubles: tuple[Trouble, ...] = ()
        """What keeps pods that are wanted or captured from being served."""

    async def enroll(self, wish: Wish, *, keep_existing: bool) -> dict[str, Any]:
        """Capture a pod. Raises EnrolmentRefused, or the kernel side's own errors; then nothing has changed."""
        place = await self._kernel.locate(wish.where)
        async with self._one_at_a_time:
            if not self._has_adopted:
                raise EnrolmentRefused(
                    "this agent has no complete state of the mesh yet: is the control plane reachable?"
                )
            if place.refusal:
                raise EnrolmentRefused(f"pod {wish.pod}: {place.refusal}")
            workload = check(self._store.current, self._node, wish.pod, place.addresses, self.pods.values())
            pod = enrolled_pod(workload, place)
            await self._obtain_certificate(pod)
            others = tuple(p for p in self.unrecognised if p.ifindex != place.ifindex)
            before = self.pods
            notes = await self._apply({**self.pods, pod.key: pod}, others, keep_existing=keep_existing)
            failed = [str(failure) for failure in self._failures if failure.ifindex in (None, place.ifindex)]
            if failed:
                await self._apply(before, others, keep_existing=keep_existing)
                raise EnrolmentRefused(f"pod {pod.key} was not captured: {'; '.join(failed)}")
            self.wishes[wish.pod] = wish
            self._announce(self.pods.values())
            log.info("enrolled %s as %s on %s", pod.key, pod.identity, pod.ifname)
            return {
                "identity": str(pod.identity),
                "ifname": pod.ifname,
                "addresses": list(map(str, pod.addresses)),
                "notes": notes,
            }

    async def unenroll(self, key: PodKey) -> None:
        """Let a pod go. Peers are told first, so that they stop dialling its tunnel port."""
        async with self._one_at_a_time:
            if key not in self.pods:
                raise EnrolmentRefused(
                    f"pod {key} is not enrolled here; `ztun status -o json` lists those that are"
                )
            remaining = {k: pod for k, pod in self.pods.items() if k != key}
            self._announce(remaining.values())
            await self._apply(remaining, self.unrecognised, keep_existing=False)
            self.wishes.pop(key, None)
            log.info("un-enrolled %s", key)

    async def adopt(self) -> None:
        """Find the pods that an earlier agent captured, and who they are by the first complete state."""
        async with self._one_at_a_time:
            await self._take_up(await self._kernel.captured())
            self._has_adopted = True

    async def follow(self) -> None:
        """Take up pods that nobody knew as soon as the mesh state says who they are, until cancelled."""
        while True:
            await self._workloads_changed.wait()
            self._workloads_changed.clear()
            async with self._one_at_a_time:
                if self._has_adopted and any(map(self._recognise, self.unrecognised)):
                    await self._take_up(self.unrecognised)

    async def _take_up(self, places: Iterable[Place]) -> None:
        """Serve captured interfaces whose pods are known; the others stay captured, and closed."""
        pods, unknown = dict(self.pods), []
        for place in places:
            workload = self._recognise(place)
            if workload is None:
                log.error(
                    "%s (%s) is captured but unknown to the mesh: closed", place.ifname, place.addresses
                )
                unknown.append(place)
                continue
            pod = enrolled_pod(workload, place)
            pods[pod.key] = pod
        await self._apply(pods, tuple(unknown), keep_existing=True)
        self._announce(self.pods.values())

    def _recognise(self, place: Place) -> Workload | None:
        return recognise(self._store.current, self._node, self._network, place.addresses)

    async def refresh(self) -> None:
        """Drop pods whose interface is gone: after news from netlink."""
        async with self._one_at_a_time:
            if not self._has_adopted:
                return  # the pods of the pins are not known yet: to apply now would let all of them go
            present = await self._kernel.interfaces()
            remaining = {key: pod for key, pod in self.pods.items() if pod.place.ifindex in present}
            unknown = tuple(p for p in self.unrecognised if p.ifindex in present)
            for key in self.pods.keys() - remaining.keys():
                log.info("the interface of %s is gone: no longer enrolled", key)
            was = set(self.pods)
            await self._apply(remaining, unknown, keep_existing=True)
            if was != set(self.pods):
                self._announce(self.pods.values())

    def state_changed(self, snapshot: Snapshot, changes: Changes) -> None:
        """Note which enrolled pods the mesh state no longer agrees about: they are closed by their workers."""
        if changes.workloads:
            self._workloads_changed.set()
            self.troubles = dated(self._troubles(snapshot), self.troubles, self._wall())

    @property
    def is_settled(self) -> bool:
        return not self.troubles

    def _troubles(self, snapshot: Snapshot) -> Iterable[Trouble]:
        for pod in self.pods.values():
            if found := trouble(snapshot, pod):
                yield found
        for place in self.unrecognised:
            text = f"{place.ifname} is captured, but the mesh does not know its pod: closed"
            yield Trouble(Missing.POD, text, ifname=place.ifname)
        by_interface = {pod.place.ifindex: pod for pod in self.pods.values()}
        for failure in self._failures:
            concerned = by_interface.get(failure.ifindex) if failure.ifindex is not None else None
            key, ifname = (concerned.key, concerned.ifname) if concerned else (None, "")
            yield Trouble(Missing.CAPTURE, str(failure), key, ifname)

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

    async def _apply(
        self, pods: dict[PodKey, EnrolledPod], unrecognised: tuple[Place, ...], *, keep_existing: bool
    ) -> tuple[str, ...]:
        """Make the kernel side capture exactly these, with the workers knowing them before it does."""
        merged = {**self.pods, **pods}
        self._tell_workers(merged.values())
        places = [*(pod.place for pod in pods.values()), *unrecognised]
        applied = await self._kernel.capture(places, keep_existing=keep_existing)
        # A pod that failed is closed; the others are done. It stays wanted: the next time tries again.
        self._failures = applied.failures
        for failure in applied.failures:
            log.error("the kernel side is not as it should be: %s", failure)
        self.pods, self.unrecognised = pods, unrecognised
        self._tell_workers(pods.values())
        self._in_use(self._identities())
        self.state_changed(self._store.current, Changes(workloads=frozenset({"*"})))
        return applied.notes
