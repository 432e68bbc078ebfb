"""What is captured for the wishes, and turn by turn what should be: look, judge, apply.

The one writer of the kernel side; whoever calls `turn` sees to it that there is one at a time. What was captured for
a wish stays captured, and closed, until the wish ends or its interface goes: `held` has every such interface, served
or not. Workers know of a pod before the kernel captures it, the control plane after.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from agent.enroll import left_closed
from agent.enroll.announced import Announced
from agent.enroll.applied import Applied
from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.held import Held, HeldInterfaces, Mark
from agent.enroll.history import History
from agent.enroll.identities import Certificates, IdentitiesInUse
from agent.enroll.judgement import Judge, Judgement, Made, likely
from agent.enroll.kernel import KernelSide
from agent.enroll.news import Interfaces, News
from agent.enroll.sighting import Found, Sighting
from agent.enroll.source import Forget, LetGo, Step, Take
from agent.enroll.treatment import PLAIN_WAYS, Honesty, Ways
from agent.enroll.trouble import Missing, Trouble, dated
from agent.enroll.wish import PodKey, Wish
from agent.enroll.wish_book import WishBook
from agent.enroll.wish_file import WishFile
from agent.model.identity import Identity
from agent.state.store import Store
from redirect.errors import RedirectError
from redirect.findings import Finding
from redirect.place import Place

log = logging.getLogger(__name__)

NOBODYS: Mapping[PodKey, float] = MappingProxyType({})


class Captures:
    """The wishes of this node and what came of them."""

    def __init__(
        self,
        node: str,
        network: str,
        store: Store,
        kernel: KernelSide,
        file: WishFile,
        certificates: Certificates,
        tell_workers: Callable[[Iterable[EnrolledPod]], None],
        announce: Callable[[Iterable[PodKey]], None],
        wall: Callable[[], float],
        ways: Ways = PLAIN_WAYS,
    ) -> None:
        self._node = node
        self.ways = ways
        self._network = network
        self._store = store
        self._kernel = kernel
        self.identities = IdentitiesInUse(certificates)
        self._tell_workers = tell_workers
        self._announced = Announced(announce)
        self._wall = wall
        self._sightings: Mapping[PodKey, Sighting] = {}
        self._held = HeldInterfaces()
        self._gone: frozenset[PodKey] = frozenset()
        """Pods that are no more, as far as is known, while something is captured for them."""
        self.interfaces = Interfaces()
        """The node's, as they were at the last look."""
        self._applied = Applied(kernel)
        self._made: dict[PodKey, Made] = {}
        self._half_closed: list[Found] = []
        self.knows_mesh = self.is_partial = False
        """Whether the first complete state is there: before it, what is captured stays; whether new pods were left."""
        self._book = WishBook(file)
        self.pods: Mapping[PodKey, EnrolledPod] = {}
        """Those that are captured and served."""
        self.waiting: tuple[Trouble, ...] = ()
        """Everything that keeps wished or captured pods from being served."""
        self.notes: dict[PodKey, tuple[str, ...]] = {}
        """What people should know about the open connections of pods that were served for the first time."""
        self.history = History(wall)

    @property
    def wishes(self) -> Mapping[PodKey, Wish]:
        return self._book.wishes

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What somebody should look at."""
        return tuple(trouble for trouble in self.waiting if not trouble.is_expected)

    @property
    def unrecognised(self) -> tuple[Held, ...]:
        """Captured before a restart, but no wish says for whom: closed."""
        return tuple(each for each in self._held.unwished(self.wishes) if each.pod not in self._gone)

    @property
    def left(self) -> Mapping[PodKey, str]:
        """Pods for which something is captured without a wish, with their uids."""
        return self._held.left(self.wishes.keys() | self._gone)

    def are_on_bridge(self) -> bool:
        """Whether any of that is a port of a bridge. Asked several times a second."""
        served = any(pod.place.bridge for pod in self.pods.values())
        return served or any(held.place.bridge for held in self._held.by_index.values())

    @property
    def owners(self) -> dict[int, PodKey]:
        """Interface -> pod, of all that is captured for one, served or not."""
        return {index: held.pod for index, held in self._held.by_index.items() if held.pod is not None}

    @property
    def namespaces(self) -> frozenset[int]:
        """The numbers by which the node knows the namespaces of wished pods."""
        return frozenset(seen.nsid for seen in self._sightings.values() if seen.nsid is not None)

    async def load(self) -> None:
        """Read the wishes, and what the pins say is captured. Raises OSError."""
        self._book.load()
        self.waiting = dated(self._book.troubles(), self.waiting, self._wall())
        for wish in self.wishes.values():
            self._note_honesty(wish)
        self._held = HeldInterfaces.of_pins(await self._kernel.captured())

    def wish(self, wish: Wish, identity: Identity | None) -> None:
        """As `WishBook.add`."""
        self._note_honesty(wish)
        self._book.add(wish, identity)
        self._held = self._held.stayed(wish.pod)
        self._look_anew(wish.pod)

    def _note_honesty(self, wish: Wish) -> None:
        if wish.asked.is_honest and self.ways.honesty is Honesty.OFF:
            log.warning(
                "pod %s asks for honest connects, and this agent has --honest-connect=off: its connections are "
                "answered at once",
                wish.pod,
            )

    @property
    def are_wishes_kept(self) -> bool:
        """Whether the next agent would read them as they are here."""
        return self._book.is_kept

    def keep_wishes(self) -> None:
        """Write the wishes down again: the record of them is gone."""
        self._book.keep()

    def unwish(self, key: PodKey) -> None:
        """End a wish and let go what is captured for it, with the next turn. Peers hear of it at once."""
        self._announced.tell(self._reachable() - {key})
        self._held = self._held.without(key)
        self._look_anew(key)
        self._book.end(key)

    def drain(self, key: PodKey) -> None:
        """Have what the mesh carries for a pod end by itself, with the next turn, until `unwish`. Peers hear at once.

        A wish for it ends that.
        """
        self._held = self._held.drained(key)
        self._announced.tell(self._reachable())

    def is_draining(self, key: PodKey) -> bool:
        return key in self._held.draining

    def follow(self, steps: Collection[Step]) -> None:
        """What a source of wishes says; what is captured changes with the next turn."""
        let_go = {step.pod for step in steps if isinstance(step, LetGo)}
        self._announced.tell(self._reachable() - let_go)
        for step in steps:
            self.history.note(step.pod, str(step))
            self._look_anew(step.pod)
            # Those of a pod that is gone stay closed: its processes may live on for a while, and its name and its
            # address may be another pod's by now.
            self._gone = self._gone | {step.pod} if isinstance(step, Forget) else self._gone - {step.pod}
            if isinstance(step, LetGo):
                self._held = self._held.without(step.pod)
            if isinstance(step, Take):
                self._note_honesty(step.wish)
        self._book.follow(steps)

    def mark(self, key: PodKey) -> Mark:
        """How things are, for `take_back`."""
        return Mark(key, self.wishes.get(key), self._held.indexes)

    def take_back(self, mark: Mark) -> None:
        """The pod's wish as it was before; interfaces that were captured since are let go with the next turn."""
        if mark.wish is None:
            self.unwish(mark.pod)
            return
        self._held = self._held.only(mark.held)
        self._look_anew(mark.pod)
        self._book.put_back(mark.wish)

    def has(self, key: PodKey) -> bool:
        """Whether there is a wish for the pod, or anything captured for it."""
        return key in self.wishes or bool(self._held.of(key))

    def is_captured(self, key: PodKey) -> bool:
        """Whether all that leads to a wished pod is captured, served or closed."""
        seen = self._sightings.get(key)
        return seen is not None and seen.place is not None and not seen.place.refusal and self.is_closed(key)

    def is_closed(self, key: PodKey) -> bool:
        """Whether all that leads to where a wished pod was found is captured, whatever the pod is like inside."""
        seen = self._sightings.get(key)
        if seen is None or self.failures_of(key):
            return False
        return bool(seen.ends) and seen.ends <= self._held.of(key)

    async def look_for(self, key: PodKey) -> None:
        """Look for one wished pod alone, and close what leads to it: its start waits. The next turn judges it.

        What the pod sends is stopped, answers among it; what is sent to it with the next turn or proof, first of all.
        """
        found = await self._kernel.look_for(key, self.wishes[key], self._held.indexes)
        if found is not None and not found.failures:
            self._sightings = {**self._sightings, **found.sightings}
            self._hold(found, {**self._held.names, **found.present})
            self._note_interfaces(self.interfaces.own, self.interfaces.known | found.present.keys())
            self._half_closed.append(found)

    async def _close_wholly(self) -> None:
        """The rest of `look_for`. What fails is a trouble, and tried again with the next turn."""
        while self._half_closed:
            failures = await self._kernel.finish(self._half_closed.pop())
            if failures:
                self._applied.fail(failures)

    async def concerned_by(self, ifindexes: Collection[int]) -> bool:
        """Whether interfaces that were none of ours may lead to a wished pod by now. Raises OSError."""
        passed = await self._kernel.look_at_passers_by(ifindexes, self.wishes, self._sightings)
        if not passed.concern:
            before = self.interfaces
            known = before.known - frozenset(ifindexes) | passed.present
            self.interfaces = replace(before, known=known)
        return passed.concern

    def failures_of(self, key: PodKey) -> list[RedirectError]:
        """What of the last turn the kernel refused for this pod, or for the whole node."""
        return self.failures_at(self.held_for(key))

    def held_for(self, key: PodKey) -> frozenset[int]:
        """The interfaces that are captured for a pod."""
        return self._held.of(key)

    def failures_at(self, interfaces: Collection[int]) -> list[RedirectError]:
        """The same of interfaces."""
        return self._applied.failures_at(interfaces)

    def judge_anew(self) -> None:
        """What is wrong by the mesh state as it is now; what is captured changes with the next turn."""
        if self.knows_mesh:
            self._note_troubles(self._judge())

    async def turn(
        self,
        news: News,
        closed: Callable[[], None] = lambda: None,
        keep_existing: Mapping[PodKey, float] = NOBODYS,
        learning: Collection[PodKey] = (),
    ) -> None:
        """Look, judge, apply.

        `closed` is called as soon as all that was found is closed: what is new waits for nothing that concerns others.
        `keep_existing`: pods whose open connections go on when they are served for the first time, for so many seconds;
        `learning`: those that stay open until they are served or, where they cannot be in this turn, closed.
        """
        await self._close_wholly()
        wishes, held, present = self.wishes, self._held.indexes, self.interfaces.known
        # What is looked for first has its certificate fetched meanwhile, and kept: without the mesh nothing is judged.
        self.identities.presumed(likely(self._store.current, wishes, self._sightings))
        try:
            found = await self._kernel.search(
                wishes, self._sightings, held, news.doubted, news.told_s, present, learning
            )
        except OSError as error:
            self._applied.failures = (RedirectError(f"the links of this node cannot be listed: {error}"),)
            self._note_troubles(self._judge())
            return
        self._sightings, self.is_partial = found.sightings, found.is_partial
        self._hold(found, found.present)
        self._note_interfaces(found.own, found.present.keys())
        self._end_those_of_processes()
        if not found.failures:
            closed()
            # Whoever waits for no more than that goes on before everything is judged anew.
            await asyncio.sleep(0)
        if not self.knows_mesh:
            # What is captured stays as it is; what is new was closed by the look.
            self._applied.fail(found.failures)
            return
        judgement = self._judge()
        self.identities.judged(judgement.identities)
        await self._serve(judgement, news, found.failures, keep_existing)
        self._book.note_found(self._sightings, self.pods)
        self._announced.tell(self._reachable())
        self._note_troubles(judgement)

    async def prove(self) -> tuple[Finding, ...]:
        """What of the last turn the kernel does not have, or not whole. Raises RedirectError, OSError."""
        await self._close_wholly()
        return await self._applied.prove()

    # -- look

    def _look_anew(self, key: PodKey) -> None:
        """What was found of the pod is not what is looked for now."""
        self._sightings = {each: seen for each, seen in self._sightings.items() if each != key}

    def _hold(self, found: Found, present: Mapping[int, str]) -> None:
        for key, ifname in self._held.gone(present):
            self.history.note(key, f"interface {ifname} of pod {key} is gone", logging.WARNING)
        self._held = self._held.seen(found.sightings, present, self.wishes)
        if found.closed:
            places = self._places(self.pods)
            self._applied.closed(places[each.ifindex] for each in found.closed if each.ifindex in places)
        self._gone &= self._held.left(self.wishes).keys()
        for closure in found.closed:
            wish = self.wishes[closure.pod]
            if wish.namespace is not None:
                self.history.note(closure.pod, str(closure), logging.WARNING)

    def _note_interfaces(self, own: Collection[int], known: Collection[int]) -> None:
        bridges = self._held.bridges(self._sightings.values())
        self.interfaces = Interfaces(self._held.indexes, frozenset(own), bridges, frozenset(known))

    def _end_those_of_processes(self) -> None:
        for key, seen in self._sightings.items():
            if seen.missing is Missing.PROCESS and not self._held.of(key):
                self.history.note(key, f"the wish for pod {key} ends: {seen.text}")
                self._book.end(key)
        self._sightings = {key: seen for key, seen in self._sightings.items() if key in self.wishes}

    # -- judge

    def _judge(self) -> Judgement:
        judge = Judge(
            self._store.current,
            self._node,
            self._network,
            self.identities.uncertified,
            self.pods,
            self.ways,
            self._made,
        )
        return judge.judge(self.wishes, self._sightings)

    def _note_troubles(self, judgement: Judgement) -> None:
        self.waiting = dated(self._troubles(judgement), self.waiting, self._wall())

    def _troubles(self, judgement: Judgement) -> Iterator[Trouble]:
        yield from judgement.troubles
        yield from left_closed.unwished(self.unrecognised)
        yield from left_closed.refused(self._applied.failures, self._held)
        yield from self._book.troubles()

    # -- apply

    async def _serve(
        self,
        judgement: Judgement,
        news: News,
        failures: tuple[RedirectError, ...],
        keep_existing: Mapping[PodKey, float],
    ) -> None:
        """Have exactly these pods captured and served, with the workers knowing them before they are."""
        if judgement.pods != self.pods:
            self._tell_workers({**self.pods, **judgement.pods}.values())
        fresh = [pod for key, pod in judgement.pods.items() if key in keep_existing and key not in self.pods]
        places = self._places(judgement.pods)
        kept = {pod.place.ifindex: keep_existing[pod.key] for pod in fresh}
        notes = await self._applied.capture(places, news, failures, kept)
        self.notes.update((pod.key, notes) for pod in fresh)
        failed = {failure.ifindex for failure in self._applied.failures}
        for key in sorted(judgement.pods.keys() - self.pods.keys()):
            pod = judgement.pods[key]
            if pod.place.ifindex in failed:
                continue
            self.history.note(key, f"pod {key} is captured on {pod.ifname} and served as {pod.identity}")
        if judgement.pods != self.pods:
            self.pods = judgement.pods
            self._tell_workers(self.pods.values())

    def _places(self, pods: Mapping[PodKey, EnrolledPod]) -> dict[int, Place]:
        return {place.ifindex: place for place in self._held.places(pod.place for pod in pods.values())}

    # -- who hears of it

    def _reachable(self) -> frozenset[PodKey]:
        """Pods that peers reach by HBONE. One that is away for a while stays one: nobody shall try it in clear."""
        bound = {key for key, wish in self.wishes.items() if wish.bound is not None}
        return (frozenset(self.pods) | bound) - self._held.draining
