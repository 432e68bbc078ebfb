"""Follows one kind of object by list and watch: what to ask next, and what the answers change. No IO, no clock.

Kubernetes API concepts, "Efficient detection of changes": list, then watch from the list's resourceVersion; every
event and bookmark moves it on; 410 means that the server has forgotten it, and only then everything is listed again.
A new list is compared with what was known, so that a deletion that nobody saw is one all the same. What is known stays
known through every failure.

    while True: match reflector.next_step(now): Wait → sleep, Fetch → ask; then page | line…, ended | failed
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlencode

from agent.kubernetes.failure import Failure, of_event
from agent.model.backoff import Backoff

PAGE_OBJECTS = 500
LIST_PATIENCE_S = 30.0
WATCH_S = 300
"""How long the server holds a watch; the API's own clients take 5 to 10 minutes."""
WATCH_SLACK_S = 10.0
"""A watch that the server has not ended this long after its time hangs on a connection that is dead."""
LACKED_S = 30.0
"""How long after a server had no such resource it is asked again."""
LACK_PATIENCE_S = 60.0
"""Security: how long a resource of which objects are known must be gone, before they are: a server that starts may not
have all of its resources at once."""
LIVED_S = 5.0
"""A watch that lived this long was a good one: the next is opened at once."""
BACKOFF = Backoff(first_s=0.25, cap_s=15.0, jitter=0.5)


class Named(Protocol):
    """What is followed: an object of the API, of which one is alive under its name at a time."""

    @property
    def namespace(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def uid(self) -> str: ...


T = TypeVar("T", bound=Named)
Key = tuple[str, str]


class Unusable(ValueError):
    """An object that lacks what every one has; the text names it."""


@dataclass(frozen=True, slots=True)
class Put(Generic[T]):
    """An object is there, or is another than before."""

    object: T


@dataclass(frozen=True, slots=True)
class Gone:
    """The object with that uid is no longer there."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything that is there has been told."""


Change = Put[T] | Gone | Listed


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """`path` of the collection, `name` as RBAC calls it; `parse` raises Unusable."""

    path: str
    name: str
    parse: Callable[[Mapping[str, Any]], T]
    field_selector: str = ""
    may_lack: bool = False
    """Whether a server that does not have this resource has simply no such objects."""
    older_path: str = ""
    """Where older servers have it."""


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for this path. An answer that is a watch comes in lines; `patience_s`: of the reader, for each of them."""

    path: str
    patience_s: float
    is_watch: bool


class Reflector(Generic[T]):
    """One resource. `problem`: why nothing is heard, empty while all is well; `skipped`: objects without the fields.

    `is_listed`: everything that is there was told at least once.
    """

    def __init__(self, resource: Resource[T], rng: Random, watch_s: int = WATCH_S) -> None:
        self.resource = resource
        self._rng = rng
        self._watch_s = watch_s
        self._known: dict[Key, tuple[str, str]] = {}
        """uid and resourceVersion of each object."""
        self._version = ""
        self._pages: list[Mapping[str, Any]] = []
        self._continue = ""
        self._failures = 0
        self._not_before_s = float("-inf")
        self._began_s = 0.0
        self._is_older = False
        self._lacked_since_s: float | None = None
        self.is_listed = False
        self.problem: Failure | None = None
        self.skipped: dict[Key, str] = {}

    def next_step(self, now_s: float) -> Wait | Fetch:
        """What is to be done now."""
        if now_s < self._not_before_s:
            return Wait(self._not_before_s - now_s)
        self._began_s = now_s
        if not self._version:
            # Without a resourceVersion: the newest state. A list from a server's cache may lack a pod that the
            # wishes of the agent before this one had, and that pod would be let go.
            return Fetch(
                self._path(limit=str(PAGE_OBJECTS), **{"continue": self._continue}), LIST_PATIENCE_S, False
            )
        # Spread: a server that restarts would have all nodes come back every five minutes from then on.
        watch_s = int(self._watch_s * self._rng.uniform(0.8, 1.2)) or 1
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": self._version}
        return Fetch(self._path(timeoutSeconds=str(watch_s), **query), watch_s + WATCH_SLACK_S, True)

    # -- answers

    def page(self, body: bytes, now_s: float) -> list[Change[T]]:
        """A page of a list; with the last one, what differs from what was known."""
        try:
            found = json.loads(body)
            items, meta = found.get("items") or [], found["metadata"]
            version, more = str(meta["resourceVersion"]), str(meta.get("continue") or "")
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise TypeError("items is no list of objects")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"the list of {self.resource.name} cannot be read: {type(error).__name__}: {error}"
            self.failed(Failure(text, "is there a proxy between?"), now_s)
            return []
        self._pages += items
        self._continue = more
        if more:
            return []
        listed, self._pages = self._pages, []
        self._version = version
        self._heard()
        changes = list(self._compare(listed))
        self.is_listed = True
        return [*changes, Listed()]

    def opened(self) -> None:
        """The server has accepted a watch."""
        self._heard()

    def line(self, line: bytes, now_s: float) -> list[Change[T]]:
        """An event of a watch. Where it cannot be used the watch has failed, and is over."""
        try:
            event = json.loads(line)
            kind, found = event["type"], event["object"]
            meta = found["metadata"] if kind != "ERROR" else {}
            version = str(meta.get("resourceVersion") or "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"an event of {self.resource.name} cannot be read: {type(error).__name__}: {error}"
            self.failed(Failure(text, "is there a proxy between?"), now_s)
            raise WatchOver from error
        if kind == "ERROR":
            self.failed(of_event(found, self.resource.name), now_s)
            raise WatchOver
        self._version = version or self._version
        match kind:
            case "ADDED" | "MODIFIED":
                return list(self._put(found))
            case "DELETED":
                return list(self._delete(meta))
            case "BOOKMARK":
                return []
            case _:
                self.failed(Failure(f"a watch of {self.resource.name} has an event of type {kind!r}"), now_s)
                raise WatchOver

    def ended(self, now_s: float) -> None:
        """The server closed a watch, as it does with each after a while."""
        if now_s - self._began_s >= LIVED_S:
            self._failures = 0
            return
        self._fail(0.0, now_s)

    def failed(self, failure: Failure, now_s: float) -> list[Change[T]]:
        """A request came to nothing, or a watch broke off; what that changes."""
        if self.resource.older_path and failure.is_missing:
            self._is_older = not self._is_older
            self._version = ""
        if self.resource.may_lack and failure.is_missing:
            return self._lacking(failure, now_s)
        self._fail_with(failure, now_s)
        return []

    def _lacking(self, failure: Failure, now_s: float) -> list[Change[T]]:
        """The server has no such resource."""
        since_s = self._lacked_since_s = now_s if self._lacked_since_s is None else self._lacked_since_s
        self._version, self._pages, self._continue = "", [], ""
        if self._known and now_s - since_s < LACK_PATIENCE_S:
            self._fail_with(failure, now_s)
            return []
        self.problem, self._failures = None, 0
        self._not_before_s = now_s + LACKED_S * self._rng.uniform(0.8, 1.2)
        self.is_listed = True
        return [*self._compare([]), Listed()]

    def _fail_with(self, failure: Failure, now_s: float) -> None:
        if now_s - self._began_s >= LIVED_S:
            self._failures = 0
        # What was listed so far is of a moment that the server may no longer have.
        self._pages, self._continue = [], ""
        if failure.is_gone:
            is_first = bool(self._version) and not self._failures
            self._version = ""
            self._fail(0.0, now_s)
            if is_first:
                self._not_before_s = now_s
            return
        self.problem = failure
        self._fail(failure.retry_after_s, now_s)

    # -- what is known

    def _compare(self, listed: list[Mapping[str, Any]]) -> Iterator[Change[T]]:
        there = {_key(item.get("metadata")) for item in listed}
        self.skipped = {key: text for key, text in self.skipped.items() if key in there}
        for key in self._known.keys() - there:
            yield self._forget(key)
        for item in listed:
            known = self._known.get(_key(item.get("metadata")))
            if known is None or known != _version_of(item):
                yield from self._put(item)

    def _put(self, item: Mapping[str, Any]) -> Iterator[Change[T]]:
        key = _key(item.get("metadata"))
        try:
            found = self.resource.parse(item)
        except Unusable as error:
            # It stays what it was: nobody is let go because somebody's object is broken.
            self.skipped[key] = str(error)
            return
        self.skipped.pop(key, None)
        known = self._known.get(key)
        if known is not None and known[0] != found.uid:
            yield self._forget(key)
        self._known[key] = _version_of(item)
        yield Put(found)

    def _delete(self, meta: Mapping[str, Any]) -> Iterator[Change[T]]:
        key = _key(meta)
        self.skipped.pop(key, None)
        if key in self._known:
            yield self._forget(key)

    def _forget(self, key: Key) -> Gone:
        return Gone(*key, self._known.pop(key)[0])

    # -- when to ask again

    def _heard(self) -> None:
        self.problem, self._lacked_since_s = None, None

    def _fail(self, least_s: float, now_s: float) -> None:
        self._failures += 1
        delay_s = BACKOFF.delay_s(self._failures, self._rng)
        if least_s:
            # Never sooner than asked for, and not all nodes at once.
            delay_s = max(delay_s, least_s * self._rng.uniform(1.0, 1.2))
        self._not_before_s = now_s + delay_s

    def _path(self, **query: str) -> str:
        if self.resource.field_selector:
            query["fieldSelector"] = self.resource.field_selector
        path = self.resource.older_path if self._is_older else self.resource.path
        return f"{path}?{urlencode({name: value for name, value in query.items() if value})}"


class WatchOver(Exception):
    """The watch is of no use any more; the reflector knows why."""


def _key(meta: object) -> Key:
    if not isinstance(meta, Mapping):
        return "", ""
    return str(meta.get("namespace") or ""), str(meta.get("name") or "")


def _version_of(item: Mapping[str, Any]) -> tuple[str, str]:
    meta = item["metadata"]
    return str(meta.get("uid") or ""), str(meta.get("resourceVersion") or "")
