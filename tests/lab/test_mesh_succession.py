"""An agent that ends while the next one waits for it: nobody who connects meanwhile is made to wait, or reset."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.labmesh import World
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel

NEW = [("from_pod", "NO_LISTENER"), ("to_pod", "NO_LISTENER")]
"""Where a new connection of, or to, a pod ends that nobody would take."""


@contextmanager
def asking(world: World, server: str) -> Iterator[list[str]]:
    """New requests one after the other, as long as the block; what became of each."""
    became: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                became.append(world.ask("client-a", world.address(server)))
            except OSError as error:
                became.append(repr(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield became
    finally:
        is_over.set()
        thread.join()


def dropped(world: World, node: str) -> int:
    counters = world.counters(node)
    return sum(counters.get(each, 0) for each in NEW)


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_one_that_waits_takes_over_without_a_gap(world: World, node: str) -> None:
    """Its options differ, as those of another pod do: no worker of the first one stays."""
    first = world.process(f"agent-{node}")
    workers = set(world.workers(node).values())
    flags = world.mesh.flags
    world.mesh.flags = {**flags, "start-patience-s": "60", "pod-name": "the-next"}
    try:
        with asking(world, "server-b") as became:
            before, log = dropped(world, node), world.log(node)
            world.mesh.start_agent(world.node(node))
            until(lambda: log.lines("waiting until it ends"), "the second one waits")
            answered = len(became)
            until(lambda: len(became) > answered, "the first one serves")
            os.kill(first.pid, signal.SIGTERM)
            # It is there until its workers have ended: with it a container would end.
            until(lambda: not first.is_running() or first.status() == "zombie", "the first one ends")
            world.mesh.wait_ready(node)
            assert not workers & set(world.workers(node).values())
            answered = len(became)
            until(lambda: len(became) > answered, "the second one serves")
            assert dropped(world, node) == before, "a new connection had to try again"
        assert set(became) == {world.address("client-a")}
    finally:
        world.mesh.flags = flags
