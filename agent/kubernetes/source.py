"""The Kubernetes API as a source of wishes: two watches, the table they fill, and what is said back.

`run` owns the threads; everything else happens on the event loop. Nothing is known before pods and namespaces were
listed once each, and what was known stays known while the API is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random

from agent.enroll.progress import Progress
from agent.enroll.source import Claim, Stance
from agent.enroll.wish import PodKey, WantedBy
from agent.kubernetes.access import Access
from agent.kubernetes.decision import Rules
from agent.kubernetes.objects import DATAPLANE_MODE, NAMESPACES, Namespace, Pod, pods_of_node
from agent.kubernetes.pod_table import PodTable
from agent.kubernetes.reflector import Change, Reflector
from agent.kubernetes.report import of
from agent.kubernetes.reporter import Reporter
from agent.kubernetes.watch_threads import run_all
from agent.kubernetes.watcher import Watcher


class KubernetesSource:
    """A PodSource. `found`: how far the pods of this node are, for what is written back."""

    wanted_by = WantedBy.KUBERNETES
    knows_all = True
    way_out = f"`kubectl label pod -n NAMESPACE NAME {DATAPLANE_MODE}=none` lets it go."

    def __init__(
        self,
        node: str,
        way: Callable[[], Access],
        rules: Rules,
        found: Callable[[], Mapping[PodKey, Progress]],
        rng: Random,
    ) -> None:
        self.table = PodTable(rules)
        self._found = found
        self._claims: Mapping[PodKey, Claim] | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pods = Watcher(Reflector(pods_of_node(node), rng), way, self._heard_pods)
        self._namespaces = Watcher(Reflector(NAMESPACES, rng), way, self._heard_namespaces)
        self.reporter = Reporter(node, way, lambda: self.table.pods, found, self._wanted, rng)

    @property
    def problem(self) -> str:
        return "; ".join(dict.fromkeys(self._problems()))

    def claims(self) -> Mapping[PodKey, Claim] | None:
        return self._claims

    # -- one pod, for those who ask about it

    def pod(self, key: PodKey) -> Pod | None:
        return self.table.pods.get(key)

    def claim(self, key: PodKey) -> Claim | None:
        return self.table.claim_of(key)

    def is_namespace_known(self, name: str) -> bool:
        return self.table.is_namespace_known(name)

    def progress(self, pod: Pod) -> Progress:
        """How far its capture is."""
        return of(pod, self._found())

    def settled(self, uids: Collection[str]) -> frozenset[str]:
        """Those of these pods that are served, or are no more."""
        if not uids:
            return frozenset()
        # Once for all of them: it is of every pod of the node, and a node that fills waits for many.
        found = self._found()
        pods = self.table.pods.values()
        return frozenset(uids) - {p.uid for p in pods if p.uid in uids and not of(p, found).is_served}

    def put_place(self, uid: str, sandbox: str, netns: str) -> None:
        """As of PodTable."""
        self.table.put_place(uid, sandbox, netns)
        self._look()

    def drop_places(self, is_gone: Callable[[str], bool]) -> None:
        """As of PodTable."""
        self.table.drop_places(is_gone)
        self._look()

    def listen(self, heard: Callable[[], None]) -> None:
        """Have it called after all news, also those that change no claim."""
        self._listeners.append(heard)

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._subscribers.append(changed)

    def turned(self) -> None:
        self.reporter.wake()

    async def run(self) -> None:
        """Watch, and write back, until cancelled."""
        self._loop = asyncio.get_running_loop()
        await run_all((self._namespaces, self._pods), self.reporter.run())

    def _heard_pods(self, changes: Sequence[Change[Pod]]) -> None:
        self._tell(lambda: self.table.hear_pods(changes))

    def _heard_namespaces(self, changes: Sequence[Change[Namespace]]) -> None:
        self._tell(lambda: self.table.hear_namespaces(changes))

    def _tell(self, hear: Callable[[], None]) -> None:
        """From a watcher's thread."""
        assert self._loop is not None

        def on_loop() -> None:
            hear()
            self._look()
            self.reporter.wake()

        self._loop.call_soon_threadsafe(on_loop)

    def _look(self) -> None:
        """Most news of a pod change nothing for it: they cost no turn."""
        claims = self.table.claims()
        is_other = claims is not self._claims and claims != self._claims
        hearers = [*self._listeners, *(self._subscribers if is_other else ())]
        self._claims = claims
        for hear in hearers:
            hear()

    def _wanted(self) -> frozenset[str] | None:
        if self._claims is None:
            return None
        return frozenset(claim.uid for claim in self._claims.values() if claim.stance is not Stance.UNWANTED)

    def _problems(self) -> Iterator[str]:
        yield from filter(None, (self._pods.problem, self._namespaces.problem))
        if self.reporter.problem is not None:
            yield str(self.reporter.problem)
        for watcher in (self._pods, self._namespaces):
            skipped = watcher.skipped
            if skipped:
                more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
                yield f"an object of the Kubernetes API cannot be used: {skipped[0]}{more}"
