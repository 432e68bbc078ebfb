"""Takes wishes in and answers whoever asked: checks, certificate, capture, and only then yes.

A wish that is refused changes nothing. One that is accepted stands: its pod is captured and closed from then on, and
served as soon as everything is there. `follow` takes a turn after all news, of the kernel and of the mesh.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from agent.enroll import draining
from agent.enroll.captures import Captures
from agent.enroll.enrolled_pod import EnrolledPod, EnrolmentRefused, NotAnnounced, check, enrolled_pod
from agent.enroll.kernel import KernelSide
from agent.enroll.news import NewsDesk, PassersBy
from agent.enroll.runners import OPEN_PATIENCE_S, Runners
from agent.enroll.source import Claim, NotReady, PodSource
from agent.enroll.sources import Sources
from agent.enroll.treatment import Honesty
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey, Where, Wish
from agent.identity.signer import SigningError
from agent.model.identity import Identity
from agent.state.apply import Changes
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from redirect.errors import RedirectError
from redirect.findings import Finding
from redirect.host_addresses import Heard
from redirect.place import Place

LOOK_AGAIN_S = 1.0
"""How often pods that are not there are looked for without news: a path may be mounted in silence."""


class Enroller:
    """Enrolment as people ask for it. `captures` has what came of it.

    `keep_existing_s`: as `keep_for_s` of `enroll`, for pods that `sources` want.
    """

    def __init__(
        self,
        node: str,
        network: str,
        store: Store,
        kernel: KernelSide,
        captures: Captures,
        obtain: Callable[[Identity], Awaitable[object]],
        obtain_in_time: Callable[[Identity], Awaitable[object]],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sources: Collection[PodSource] = (),
        keep_existing_s: float = 0.0,
    ) -> None:
        self._node = node
        self._network = network
        self._store = store
        self._kernel = kernel
        self._obtain = obtain
        self._obtain_in_time = obtain_in_time
        self._wall = wall
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._loaded = asyncio.Event()
        self._keeping: dict[PodKey, float] = {}
        self._turned = asyncio.Event()
        self.captures = captures
        self.desk = NewsDesk(monotonic)
        self._keep_existing_s = keep_existing_s
        self._sources = Sources(sources, captures, wall, lambda: Runners(captures, store, monotonic))
        self._sources.subscribe(self.desk.wake)

    # -- requests

    async def enroll(
        self, wish: Wish, *, keep_for_s: float = 0.0, wait_s: float, is_cleaned: bool = False
    ) -> dict[str, Any]:
        """Have a pod captured and served. Raises EnrolmentRefused, PodNotFound or OSError: then nothing has changed.

        Connections that are open then are reset, or go on in plaintext for `keep_for_s` (math.inf: until they close).

        With `is_cleaned` rules of another mesh are taken out of the pod once it is closed, so that it is never open.

        Raises StillWaiting when the pod is captured, and closed, but not served within `wait_s`: its wish stands.
        """
        deadline_s = self._monotonic() + wait_s
        if wish.asked.is_honest and self.captures.ways.honesty is Honesty.OFF:
            raise EnrolmentRefused(
                f"pod {wish.pod}: this agent holds no connections; start it with --honest-connect=pods (or all), or "
                "enrol the pod without --honest-connect"
            )
        if not self.captures.knows_mesh:
            raise EnrolmentRefused(
                "this agent has no complete state of the mesh yet: is the control plane reachable?"
            )
        where, place = await self._kernel.locate(wish.where)
        refusal = place.refusal
        if not refusal and place.other_mesh:
            # A listener alone: no reason to close a pod that is served, but one not to begin with it.
            refusal = place.other_mesh.why
        if refusal and not (is_cleaned and place.is_cleanable):
            raise EnrolmentRefused(f"pod {wish.pod}: {refusal}", Missing.INTERFACE)
        identity = self._identity(wish.pod, place)
        with self.captures.identities.expecting(identity):
            if identity is not None:
                await self._certificate(identity, min(wait_s, OPEN_PATIENCE_S))
            async with self._one_at_a_time:
                cleaned = await self._clean(wish.pod, where, place) if place.is_cleanable else ()
                wish = replace(wish, where=where, since_s=self._wall())
                await self._take_in(wish, identity, keep_for_s)
        pod = await self._served(wish.pod, deadline_s)
        return {
            "identity": str(pod.identity),
            "ifname": pod.ifname,
            "addresses": list(map(str, pod.addresses)),
            "notes": [*cleaned, *self.captures.notes.pop(pod.key, ()), *pod.notes],
        }

    async def unenroll(self, key: PodKey, drain_s: float = 0.0) -> int:
        """End a wish and let its pod go. Peers are told first, so that they stop dialling its tunnel port.

        Connections that the mesh carries may go on for `drain_s`, while new ones go past it; how many were left and
        reset (0 where none were waited for). Raises EnrolmentRefused: nothing has changed, or the pod was enrolled
        again meanwhile; RedirectError: the wish has ended, and the kernel does not let go.
        """
        left = await self._drain(key, drain_s) if drain_s else 0
        async with self._one_at_a_time:
            self._require_ours(key)
            if drain_s and not self.captures.is_draining(key):
                raise EnrolmentRefused(f"pod {key} was enrolled again while its connections were waited for")
            held = self.captures.held_for(key)
            self.captures.unwish(key)
            await self._turn()
            failed = self.captures.failures_at(held)
            if failed:
                raise RedirectError(
                    f"the wish for pod {key} has ended, but the pod is still captured, and closed: "
                    f"{'; '.join(map(str, failed))}; the agent goes on trying"
                )
            self.captures.history.note(key, f"un-enrolled {key}")
        return left

    # -- the life of the agent

    async def take_over(self) -> None:
        """What an earlier agent left: the wishes, and what is captured, which stays as it is. Raises OSError."""
        async with self._one_at_a_time:
            await self.captures.load()
            self._loaded.set()
            await self._turn()
        await self._turn_for_the_rest()

    async def adopt(self) -> None:
        """The first complete state is there: serve the pods of the wishes."""
        async with self._one_at_a_time:
            self.captures.knows_mesh = True
            await self._turn()
        await self._turn_for_the_rest()

    async def refresh(self) -> None:
        """A look and whatever follows from it."""
        async with self._one_at_a_time:
            await self._turn(is_asked=False)

    async def prove(self) -> tuple[Finding, ...]:
        """What of the captures the kernel does not have, or not whole. Raises RedirectError, OSError."""
        async with self._one_at_a_time:
            return await self.captures.prove()

    async def mend(self) -> None:
        """Apply everything anew, also where nothing is known to differ."""
        async with self._one_at_a_time:
            if self._loaded.is_set():
                await self._turn()

    async def follow(self) -> None:
        """Take a turn after news and, while pods are waited for, now and then; until cancelled."""
        # What an earlier agent captured is not known before: a turn would let it go.
        await self._loaded.wait()
        while True:
            is_waited_for = self.captures.waiting or self._sources.are_waiting
            await self.desk.wait(LOOK_AGAIN_S if is_waited_for else None)
            began_s = self._monotonic()
            passers_by = self.desk.passers_by()
            if passers_by is None or await self._is_concerned_by(passers_by):
                await self.refresh()
            # News that come meanwhile melt into one turn, and turns leave the most of a core to others.
            await self.desk.rest(self._monotonic() - began_s)

    def hear(self, heard: Heard) -> None:
        """News of the kernel."""
        self.desk.hear(heard, self.captures.namespaces, self.captures.interfaces)

    def state_changed(self, snapshot: Snapshot, changes: Changes) -> None:
        """Note at once which pods the mesh state no longer agrees about; a turn follows."""
        if changes.workloads:
            self.captures.judge_anew()
            self.desk.wake()

    async def captured(self, key: PodKey, claim: Claim, wait_s: float) -> None:
        """Return when all that leads to where a source says a pod is is captured, be it closed. Raises NotReady."""
        deadline_s = self._monotonic() + wait_s
        await self._look_for(key, claim, wait_s)
        self.desk.hurry()
        while not self._is_captured(key, claim):
            left_s = deadline_s - self._monotonic()
            if left_s <= 0:
                raise NotReady(self._reasons(key))
            await self._next_turn(left_s)

    @contextmanager
    def expecting(self, identity: Identity) -> Iterator[None]:
        """Have a certificate ready for a pod that the control plane does not list yet."""
        with self.captures.identities.expecting(identity):
            yield

    async def certified(self, identity: Identity, wait_s: float) -> None:
        """Return when an identity that is expected has its certificate. Raises NotReady."""
        try:
            async with asyncio.timeout(wait_s):
                await self._obtain_in_time(identity)
        except TimeoutError:
            reason = self.captures.identities.uncertified(identity)
            raise NotReady(f"no certificate for {identity} within {wait_s:g} s: {reason}") from None
        except SigningError as error:
            raise NotReady(f"no certificate for {identity}: {error}") from error

    @property
    def trust_domain(self) -> str:
        """Of the mesh as far as it is known; empty while nothing is."""
        some = self._store.current.workloads.some()
        return some.trust_domain if some is not None else ""

    # -- steps

    async def _drain(self, key: PodKey, drain_s: float) -> int:
        async with self._one_at_a_time:
            self._require_ours(key)
            pod = self.captures.pods.get(key)
            self.captures.drain(key)
            await self._turn()
            self.captures.history.note(
                key, f"pod {key} leaves the mesh: its connections have {drain_s:g} s to end"
            )
        addresses = pod.addresses if pod is not None else ()
        return await draining.ended(key, addresses, drain_s, self.captures, self._kernel, self._monotonic)

    def _require_ours(self, key: PodKey) -> None:
        """Raises EnrolmentRefused unless the pod is captured for a wish that people may end."""
        if not self.captures.has(key):
            raise EnrolmentRefused(
                f"pod {key} is not enrolled here; `ztun status -o json` lists those that are"
            )
        self._sources.refuse_if_wanted(key)

    async def _is_concerned_by(self, passers_by: PassersBy) -> bool:
        """Whether a turn is to follow."""
        async with self._one_at_a_time:
            try:
                is_concerned = await self.captures.concerned_by(passers_by.ifindexes)
            except OSError:
                is_concerned = True  # a turn says in words that links cannot be read
        if is_concerned:
            self.desk.recall(passers_by)
        return is_concerned

    def _is_captured(self, key: PodKey, claim: Claim) -> bool:
        return self._is_meant(key, claim) and self.captures.is_captured(key)

    def _is_meant(self, key: PodKey, claim: Claim) -> bool:
        """Whether the wish is for this one: what was found under another place was of a sandbox before it."""
        wish = self.captures.wishes.get(key)
        return wish is not None and (wish.uid, wish.where) == (claim.uid, claim.where)

    async def _look_for(self, key: PodKey, claim: Claim, wait_s: float) -> None:
        """Ahead of the next turn, which is for all: this pod's start waits. Where it is not found that turn looks."""
        if not self._loaded.is_set():
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._one_at_a_time.acquire()
        except TimeoutError:
            return
        try:
            self._sources.follow_one(key)
            if self._is_meant(key, claim) and not self.captures.is_captured(key):
                self.desk.looks()
                await self.captures.look_for(key)
                self.desk.found(self.captures.namespaces)
        finally:
            self._one_at_a_time.release()

    def _reasons(self, key: PodKey) -> str:
        return "; ".join(str(trouble) for trouble in self.captures.waiting if trouble.pod == key)

    async def _next_turn(self, wait_s: float) -> None:
        turned = self._turned
        try:
            async with asyncio.timeout(wait_s):
                await turned.wait()
        except TimeoutError:
            return

    def _identity(self, pod: PodKey, place: Place) -> Identity | None:
        """Of the pod at that place; None while the control plane does not list it. Raises EnrolmentRefused."""
        owners = {ip: pod.key for pod in self.captures.pods.values() for ip in pod.addresses}
        try:
            workload = check(self._store.current, self._node, self._network, pod, place.addresses, owners)
        except NotAnnounced:
            return None
        return enrolled_pod(workload, place).identity

    async def _clean(self, pod: PodKey, where: Where, place: Place) -> tuple[str, ...]:
        try:
            found = await self._kernel.clean(where, place)
        except (RedirectError, OSError) as error:
            # As it was before: open, or closed if it was taken in already.
            await self._turn()
            raise EnrolmentRefused(
                f"pod {pod} is still in another mesh and cannot be cleaned: {error}", Missing.CAPTURE
            ) from error
        return (f"taken out of the pod: {found}",)

    async def _certificate(self, identity: Identity, patience_s: float) -> None:
        """Raises EnrolmentRefused where waiting cannot help."""
        try:
            async with asyncio.timeout(patience_s):
                await self._obtain(identity)
        except TimeoutError:
            return
        except SigningError as error:
            if not error.is_transient:
                raise EnrolmentRefused(f"no certificate: {error}", Missing.CERTIFICATE) from error

    async def _take_in(self, wish: Wish, identity: Identity | None, keep_for_s: float) -> None:
        before = self.captures.mark(wish.pod)
        try:
            self.captures.wish(wish, identity)
        except OSError as error:
            raise EnrolmentRefused(f"the wish for pod {wish.pod} cannot be written down: {error}") from error
        if keep_for_s:
            self._keeping[wish.pod] = keep_for_s
        # One that can be served at once stays open until it is: a SYN that is dropped costs its sender a second.
        is_certified = identity is not None and not self.captures.identities.uncertified(identity)
        await self._turn(learning=[wish.pod] if is_certified else [])
        failed = self.captures.failures_of(wish.pod)
        if failed:
            self.captures.take_back(before)
            self._keeping.pop(wish.pod, None)
            await self._turn()
            raise EnrolmentRefused(
                f"pod {wish.pod} was not captured: {'; '.join(map(str, failed))}", Missing.CAPTURE
            )

    async def _served(self, key: PodKey, deadline_s: float) -> EnrolledPod:
        # One that is served no longer, because the control plane took it back, stays among the pods, closed.
        while (pod := self.captures.pods.get(key)) is None or self._reasons(key):
            if key not in self.captures.wishes:
                raise EnrolmentRefused(f"the wish for pod {key} has ended meanwhile")
            left_s = deadline_s - self._monotonic()
            if left_s <= 0:
                raise StillWaiting(self._reasons(key))
            await self._next_turn(left_s)
        return pod

    async def _turn(self, *, is_asked: bool = True, learning: Collection[PodKey] = ()) -> None:
        new = self._sources.follow()
        self._keeping |= dict.fromkeys(new if self._keep_existing_s else (), self._keep_existing_s)
        news = self.desk.take(self.captures.namespaces, is_asked=is_asked)
        self.desk.looks()
        open_still = {*learning, *self._sources.learning}
        await self.captures.turn(news, self._tell_who_waits, self._keeping, open_still)
        self.desk.found(self.captures.namespaces)
        if self.captures.is_partial or self._sources.are_more:
            self.desk.hurry()
        left = self.captures.wishes.keys() - self.captures.pods.keys()
        self._keeping = {key: for_s for key, for_s in self._keeping.items() if key in left}
        self._tell_who_waits()
        self._sources.turned()

    async def _turn_for_the_rest(self) -> None:
        """Return when no new pod is left to a next look. Who waits for a pod has his turn between."""
        while self.captures.is_partial:
            await self.refresh()

    def _tell_who_waits(self) -> None:
        """Some wait for a pod to be closed, which comes early in a turn, others for one to be served."""
        self._turned.set()
        self._turned = asyncio.Event()


class StillWaiting(Exception):
    """The pod is captured, and closed, but not served yet; the text says what is missing and what ends it."""
