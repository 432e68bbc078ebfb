"""Writes to the API what `report` says, one request after the other, and tries again what fails.

What is to be written is computed anew each time from what is there, so that a value that is out of date is never
written late. One pod whose write fails waits alone, longer each time; a trouble is an Event when it has stood for a
while, and the same one is told of once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from agent.enroll.progress import Progress
from agent.enroll.wish import PodKey
from agent.kubernetes.access import Access
from agent.kubernetes.connection import Connection, RequestFailed
from agent.kubernetes.failure import Failure
from agent.kubernetes.objects import REDIRECTION, Pod
from agent.kubernetes.report import JSON, STRATEGIC_PATCH, Annotate, Tell, of, to_annotate, to_tell
from agent.model.backoff import Backoff

log = logging.getLogger(__name__)

BACKOFF = Backoff(first_s=0.2, cap_s=60.0, jitter=0.3)
STANDS_S = 5.0
"""A trouble that is over sooner is none that people should hear of."""
ECHO_S = 10.0
"""How long the API may take to tell us of our own write, before it is made again."""


@dataclass(slots=True)
class _Attempt:
    """What was written to one pod, and how that went."""

    value: str | None
    failures: int = 0
    not_before_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is to be written as things are at one moment, in one look at the pods of the node: there may be hundreds."""

    annotations: tuple[Annotate, ...]
    tells: tuple[Tell, ...]


class Reporter:
    """`pods`: as the API tells them; `found`: how far each is; `wanted`: as `to_annotate` takes it.

    `problem`: why the last write failed.
    """

    def __init__(
        self,
        node: str,
        way: Callable[[], Access],
        pods: Callable[[], Mapping[PodKey, Pod]],
        found: Callable[[], Mapping[PodKey, Progress]],
        wanted: Callable[[], Collection[str] | None],
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._node = node
        self._connection = Connection(way, keeps_open=True)
        self._pods = pods
        self._found = found
        self._wanted = wanted
        self._rng = rng
        self._clock = clock
        self._now = now
        self._attempts: dict[str, _Attempt] = {}
        self._since: dict[str, tuple[str, float]] = {}
        """Trouble of each pod, and since when, by uid."""
        self._told: dict[str, str] = {}
        self._events_not_before_s = 0.0
        self._event_failures = 0
        self._wake = asyncio.Event()
        self.problem: Failure | None = None

    def wake(self) -> None:
        """Something is other than before."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        with closing(self._connection), ThreadPoolExecutor(1, "kubernetes-report") as thread:
            try:
                while True:
                    self._wake.clear()
                    seen = await self._write_all(thread)
                    try:
                        async with asyncio.timeout(self._patience_s(seen)):
                            await self._wake.wait()
                    except TimeoutError:
                        continue
            finally:
                self._connection.abort()

    async def _write_all(self, thread: ThreadPoolExecutor) -> _Seen:
        """What is left to be written later."""
        self._forget()
        seen = self._look()
        while due := self._due_annotations(seen):
            for key in due:
                annotate = self._annotation_of(key)
                if annotate is not None:
                    await self._annotate(annotate, thread)
            seen = self._look()
        while (tell := self._next_telling(seen)) is not None:
            await self._tell(tell, thread)
            seen = self._look()
        self._connection.close()
        if not seen.annotations and not seen.tells:
            # What could not be written need not be any more.
            self.problem = None
        return seen

    def _look(self) -> _Seen:
        pods, found, now_s = self._pods(), self._found(), self._clock()
        for pod in pods.values():
            text = of(pod, found).trouble
            known = self._since.get(pod.uid)
            if not text:
                self._since.pop(pod.uid, None)
            elif known is None or known[0] != text:
                self._since[pod.uid] = text, now_s
        annotations = to_annotate(pods, found, self._wanted())
        return _Seen(tuple(annotations), tuple(to_tell(pods, found, self._told)))

    def _forget(self) -> None:
        """What is known of pods that are no more."""
        uids = {pod.uid for pod in self._pods().values()}
        for table in (self._attempts, self._since, self._told):
            for uid in table.keys() - uids:
                del table[uid]

    # -- annotations

    def _due_annotations(self, seen: _Seen) -> list[PodKey]:
        now_s = self._clock()
        return [each.pod.key for each in seen.annotations if self._is_due(each, now_s)]

    def _is_due(self, annotate: Annotate, now_s: float) -> bool:
        attempt = self._attempts.get(annotate.pod.uid)
        return attempt is None or attempt.value != annotate.value or now_s >= attempt.not_before_s

    def _annotation_of(self, key: PodKey) -> Annotate | None:
        """What is due for one pod as things are now: since it was found others were written."""
        pod = self._pods().get(key)
        found = to_annotate({key: pod}, self._found(), self._wanted()) if pod is not None else ()
        return next((each for each in found if self._is_due(each, self._clock())), None)

    async def _annotate(self, annotate: Annotate, thread: ThreadPoolExecutor) -> None:
        pod = annotate.pod
        before = self._attempts.get(pod.uid)
        is_again = before is not None and before.value == annotate.value
        failures = before.failures if before is not None else 0
        if annotate.overwritten:
            log.warning(
                "pod %s: somebody else wrote %r as its annotation %s; it is put right",
                pod.key,
                annotate.overwritten,
                REDIRECTION,
            )
        failure = await self._send(
            thread, "PATCH", annotate.path, annotate.body, STRATEGIC_PATCH, "pods/status", "patch"
        )
        if failure is None:
            # One that is overwritten again and again by another agent is not written again and again at once.
            failures = failures + 1 if is_again else 0
            wait_s = ECHO_S + (BACKOFF.delay_s(failures, self._rng) if failures else 0)
        elif failure.is_missing or (failure.is_conflict and "UID" in failure.text):
            # The pod is gone, or another one has its name: the API will tell.
            failures, wait_s = 0, ECHO_S
        else:
            failures += 1
            wait_s = max(BACKOFF.delay_s(failures, self._rng), failure.retry_after_s)
        self._attempts[pod.uid] = _Attempt(annotate.value, failures, self._clock() + wait_s)

    # -- events

    def _next_telling(self, seen: _Seen) -> Tell | None:
        now_s = self._clock()
        if now_s < self._events_not_before_s:
            return None
        for tell in seen.tells:
            if now_s - self._since[tell.pod.uid][1] >= STANDS_S:
                return tell
        return None

    async def _tell(self, tell: Tell, thread: ThreadPoolExecutor) -> None:
        now = self._now()
        name = f"{tell.pod.name[:200]}.{int(now.timestamp() * 1e6):x}{self._rng.getrandbits(16):04x}"
        body = tell.body(self._node, name, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        failure = await self._send(thread, "POST", tell.path, body, JSON, "events", "create")
        if failure is None or failure.is_missing:
            self._told[tell.pod.uid] = tell.text
            self._event_failures = 0
            return
        self._event_failures += 1
        wait_s = max(BACKOFF.delay_s(self._event_failures, self._rng), failure.retry_after_s)
        self._events_not_before_s = self._clock() + wait_s

    # -- the way there

    async def _send(
        self, thread: ThreadPoolExecutor, method: str, path: str, body: bytes, kind: str, what: str, verb: str
    ) -> Failure | None:
        def work() -> Failure | None:
            try:
                self._connection.write(method, path, body, kind, what, verb)
            except RequestFailed as failed:
                return failed.failure
            return None

        failure = await asyncio.get_running_loop().run_in_executor(thread, work)
        if failure is None or failure.is_missing or failure.is_conflict:
            self.problem = None
        else:
            if self.problem is None or self.problem.text != failure.text:
                log.warning("%s", failure)
            self.problem = failure
        return failure

    def _patience_s(self, seen: _Seen) -> float | None:
        """When to look again without news; None: there is nothing to try again."""
        now_s = self._clock()
        times = [
            self._attempts[each.pod.uid].not_before_s
            for each in seen.annotations
            if each.pod.uid in self._attempts
        ]
        for tell in seen.tells:
            times.append(max(self._since[tell.pod.uid][1] + STANDS_S, self._events_not_before_s))
        return max(0.01, min(times) - now_s) if times else None
