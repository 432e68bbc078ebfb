"""A Watcher at work, and everything it told: what tests of watching wait for and look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Protocol

from agent.kubernetes.access import Access
from agent.kubernetes.objects import Pod, pods_of_node
from agent.kubernetes.reflector import Change, Gone, Listed, Put, Reflector
from agent.kubernetes.watcher import Watcher
from tests.support.kube import Raw

PATIENCE_S = 60.0


class Api(Protocol):
    """What the fake API server and a real one can both do."""

    token_file: Path

    @property
    def access(self) -> Access: ...

    def create(self, raw: Raw) -> Raw: ...

    def change(self, kind: str, name: str, namespace: str = "", **parts: Raw) -> Raw: ...

    def delete(self, kind: str, name: str, namespace: str = "") -> None: ...

    def get(self, kind: str, name: str, namespace: str = "") -> Raw: ...

    def forget_versions(self) -> None: ...

    def token_that_expires(self) -> str: ...

    def let_it_expire(self) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Counted(Reflector[Pod]):
    """Counts what it asks for. While paused it asks for nothing."""

    lists = watches = 0
    is_paused = False

    def next_step(self, now_s: float) -> Any:
        step = super().next_step(now_s)
        if self.is_paused:
            self._not_before_s = max(self._not_before_s, now_s + 0.05)
            return super().next_step(now_s)
        if hasattr(step, "is_watch"):
            self.watches += step.is_watch
            self.lists += not step.is_watch
        return step


class Following:
    """What was told of a node's pods so far."""

    def __init__(self, way: Callable[[], Access], node: str, watch_s: int) -> None:
        self._told = threading.Condition()
        self._changes: list[Change[Pod]] = []
        self.reflector = Counted(pods_of_node(node), Random(1), watch_s)
        self.watcher = Watcher(self.reflector, way, self._hear)

    def _hear(self, changes: Sequence[Change[Pod]]) -> None:
        with self._told:
            self._changes += changes
            self._told.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < ends_s, (
                f"not within {PATIENCE_S:g} s; told: {self._changes}, {self.problem}"
            )
            with self._told:
                self._told.wait(0.02)

    def pause(self) -> None:
        self.reflector.is_paused = True

    def go_on(self) -> None:
        self.reflector.is_paused = False

    @property
    def problem(self) -> str:
        return self.watcher.problem

    @property
    def lists(self) -> int:
        return self.reflector.lists

    @property
    def watches(self) -> int:
        return self.reflector.watches

    @property
    def is_listed(self) -> bool:
        return any(isinstance(each, Listed) for each in self._changes)

    @property
    def pods(self) -> dict[str, Pod]:
        found: dict[str, Pod] = {}
        for each in list(self._changes):
            match each:
                case Put(pod):
                    found[pod.name] = pod
                case Gone(_, name, uid) if name in found and found[name].uid == uid:
                    del found[name]
        return found

    @property
    def names(self) -> set[str]:
        return set(self.pods)

    @property
    def gone(self) -> list[Gone]:
        return [each for each in self._changes if isinstance(each, Gone)]

    def puts(self, name: str) -> list[Pod]:
        return [each.object for each in self._changes if isinstance(each, Put) and each.object.name == name]

    def label(self, name: str, key: str) -> str | None:
        pod = self.pods.get(name)
        return pod.labels.get(key) if pod else None

    def uid(self, name: str) -> str:
        pod = self.pods.get(name)
        return pod.uid if pod else ""


@contextmanager
def following(api: Any, node: str, *, watch_s: int = 300) -> Iterator[Following]:
    """Its pods, from now until the end of the block; ends with the thread."""
    seen = Following(lambda: api.access, node, watch_s)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            seen.watcher.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        seen.watcher.stop()
        thread.join(30)
    assert not thread.is_alive(), "the watcher did not stop"
    assert not raised, raised
