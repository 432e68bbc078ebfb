"""Drives a Reflector: asks the API what it wants to ask, in a thread of its own, until it is stopped.

What changes goes to `deliver`, in the order of the server. Nothing of the server's ends it: whatever happens, the
reflector says when to try again. What is not expected is raised, for the task that runs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from agent.kubernetes.access import Access
from agent.kubernetes.connection import Connection, RequestFailed
from agent.kubernetes.reflector import Change, Fetch, Named, Reflector, Wait, WatchOver

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Named)


class Watcher(Generic[T]):
    """One resource of one API server. `problem` and `skipped` may be read from any thread."""

    def __init__(
        self,
        reflector: Reflector[T],
        way: Callable[[], Access],
        deliver: Callable[[Sequence[Change[T]]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reflector = reflector
        self._connection = Connection(way)
        self._deliver = deliver
        self._clock = clock
        self._stopped = threading.Event()
        self._told = ""
        self._named: frozenset[str] = frozenset()

    @property
    def problem(self) -> str:
        """Why nothing is heard; empty while all is well."""
        failure = self._reflector.problem
        return str(failure) if failure is not None else ""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Objects that cannot be told from others, each with what it lacks."""
        return tuple(self._reflector.skipped.values())

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            match self._reflector.next_step(self._clock()):
                case Wait(seconds):
                    self._stopped.wait(seconds)
                case Fetch() as fetch:
                    self._fetch(fetch)
                    self._say()

    def stop(self) -> None:
        """From any thread; `run` returns soon."""
        self._stopped.set()
        self._connection.abort()

    def _fetch(self, fetch: Fetch) -> None:
        name = self._reflector.resource.name
        try:
            if not fetch.is_watch:
                body = self._connection.read(fetch.path, fetch.patience_s, name)
                self._tell(self._reflector.page(body, self._clock()))
                return
            with self._connection.watched(fetch.path, fetch.patience_s, name) as lines:
                self._reflector.opened()
                self._say()
                for line in lines:
                    self._tell(self._reflector.line(line, self._clock()))
            self._reflector.ended(self._clock())
        except WatchOver:
            return
        except RequestFailed as failed:
            if not self._stopped.is_set():
                self._tell(self._reflector.failed(failed.failure, self._clock()))

    def _tell(self, changes: Sequence[Change[T]]) -> None:
        named = frozenset(self.skipped)
        for text in sorted(named - self._named):
            log.warning("an object of the Kubernetes API cannot be used: %s; what it was before holds", text)
        self._named = named
        if changes and not self._stopped.is_set():
            self._deliver(changes)

    def _say(self) -> None:
        """A line in the log for each problem that is another than before, and for its end."""
        problem = self.problem
        if problem != self._told and not self._stopped.is_set():
            if problem:
                log.warning("%s; what was known of %s holds", problem, self._reflector.resource.name)
            else:
                log.info("the Kubernetes API is heard again (%s)", self._reflector.resource.name)
            self._told = problem
