"""The order in which serving ends: what pods have just opened comes back to this node before its listeners close."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from agent import config
from agent.enroll.kernel import KernelSide
from agent.model.listener import OUTBOUND
from agent.run_lock import RunLock
from agent.stopping import drain, hear_signals, stop_serving
from agent.supervisor.crew import Crew


@dataclass
class Node:
    """Kernel side, redirection, crew and queues at once. A connection of a pod is `open_for` so many looks yet."""

    open_for: int
    events: list[str] = field(default_factory=list)
    everyone: tuple[Deaf, ...] = ()

    async def run(self, ask: Callable[[Node], int | None]) -> int | None:
        return ask(self)

    def clear_listeners(self, *only: str) -> None:
        self.events.append(f"closed {' '.join(only) or 'all'}")

    def half_open(self) -> int:
        self.open_for -= 1
        if not self.open_for:
            self.events.append("it has come back")
        return int(self.open_for > 0)

    @property
    def queues(self) -> Node:
        return self

    are_empty = True

    async def drain(self, deadline_s: float) -> None:
        self.events.append("workers drain")


def stopped(node: Node) -> list[str]:
    asyncio.run(drain(cast(KernelSide, node), cast(Crew, node), 1.0))
    return node.events


def test_what_pods_have_opened_comes_back_first() -> None:
    outbound = f"closed {OUTBOUND.name}"
    assert stopped(Node(3)) == [outbound, "it has come back", "closed all", "workers drain"]


def test_who_never_answers_holds_up_no_stop() -> None:
    assert stopped(Node(1 << 30)) == [f"closed {OUTBOUND.name}", "closed all", "workers drain"]


def test_signals_that_mean_nothing_are_said_to_be_ignored_and_do_not_stop_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nothing = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    async def scene() -> None:
        stop = asyncio.Event()
        hear_signals(stop)
        for signum in nothing:
            os.kill(os.getpid(), signum)
        await asyncio.sleep(0)
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()

    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in nothing}
    try:
        asyncio.run(asyncio.wait_for(scene(), 30))
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert [line.split(":")[0] for line in caplog.messages] == [f"{each.name} is ignored" for each in nothing]


@dataclass
class Lock:
    is_awaited: bool


@dataclass
class Deaf:
    """A worker that does not hear that it shall serve on: it stays in the container."""

    pid: int

    async def go_on(self, patience_s: float, drain_s: float) -> None:
        raise TimeoutError

    def __str__(self) -> str:
        return "worker"


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("steps_aside", [True, False])
@pytest.mark.parametrize("is_awaited", [True, False])
def test_workers_that_cannot_leave_drain_only_where_nobody_follows(
    *, begun: bool, steps_aside: bool, is_awaited: bool
) -> None:
    node = Node(1)
    node.everyone = (Deaf(5), Deaf(6))
    lock = cast(RunLock, Lock(is_awaited)) if begun else None
    settings = config.build({"succession_s": "90"})
    left = asyncio.run(stop_serving(cast(KernelSide, node), cast(Crew, node), settings, lock, steps_aside))
    is_followed = steps_aside or (begun and is_awaited)
    assert left.pids == ((5, 6) if is_followed else ())
    assert ("workers drain" in node.events) != is_followed
    assert left.stands_by == steps_aside
