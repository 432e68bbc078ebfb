"""One agent after the other: nobody who connects meanwhile is made to wait, or reset."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from redirect.outlive import groups_of
from tests.support.agent_pods import agent_pods
from tests.support.cgroups import container
from tests.support.labmesh import World, policy_manifest
from tests.support.labtraffic import until, wait_gone
from tests.support.ongoing import New
from tests.support.streams import Streams

pytestmark = pytest.mark.kernel

ECHO_PORT = 7007
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


@pytest.mark.parametrize(("node", "stay"), [("node-a", False), ("node-b", False), ("node-b", True)])
def test_one_that_waits_takes_over_without_a_gap(world: World, node: str, stay: bool) -> None:
    """Where its options differ, as those of another pod do, no worker of the first one stays; else, the second time,
    all of them do."""
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
            # It is there until its workers have ended, for with it a container would end, or are the next one's.
            until(lambda: not first.is_running() or first.status() == "zombie", "the first one ends")
            world.mesh.wait_ready(node)
            assert (workers & set(world.workers(node).values())) == (workers if stay else set())
            answered = len(became)
            until(lambda: len(became) > answered, "the second one serves")
            assert dropped(world, node) == before, "a new connection had to try again"
        assert set(became) == {world.address("client-a")}
    finally:
        world.mesh.flags = flags


def test_workers_serve_between_two_agents_and_none_of_a_container_is_left(world: World) -> None:
    """As in a DaemonSet: the next one is started when the first one's container has ended, with all that was in it."""
    flags = world.mesh.flags
    try:
        world.mesh.flags = {**flags, "succession-s": "100", "pod-name": "the-first"}
        stop(world, "node-b")
        world.restart("node-b")
        first = world.process("agent-node-b")
        workers = world.workers("node-b")
        with container(first.pid, *workers.values()) as group, asking(world, "server-b") as became:
            talk, before = world.talk("client-a", world.address("server-b")), dropped(world, "node-b")
            with talk:
                stop(world, "node-b")
                assert not (group / "cgroup.procs").read_text(), "they would be killed with the container"
                talk.say()
                answered = len(became)
                until(lambda: len(became) > answered + 2, "they serve without an agent")
                world.mesh.flags = {**world.mesh.flags, "pod-name": "the-second"}
                world.restart("node-b")
                assert world.workers("node-b") == workers, "the next agent has not taken them"
                here = groups_of(str(world.process("agent-node-b").pid))
                assert all(groups_of(str(pid)) == here for pid in workers.values()), (
                    "they are outside of its limits"
                )
                talk.say()
            assert dropped(world, "node-b") == before, "a new connection had to try again"
        assert set(became) == {world.address("client-a")}
    finally:
        # One that leaves nothing behind when it ends.
        world.mesh.flags = flags
        stop(world, "node-b")
        world.restart("node-b")


def test_workers_of_before_serve_until_the_new_ones_have_certificates(world: World) -> None:
    flags, log = world.mesh.flags, world.log("node-b")
    try:
        with asking(world, "server-b") as became:
            world.kill_control("node-b")
            world.mesh.flags = {**flags, "log-level": "debug", "ca-address": "127.0.0.1:1"}
            world.mesh.start_agent(world.node("node-b"))
            until(lambda: log.lines("no certificate for"), "its CA does not answer")
            answered = len(became)
            until(lambda: len(became) > answered + 20, "the workers of before serve")
            assert set(became) == {world.address("client-a")}
            world.kill_control("node-b")
            world.mesh.flags = {**flags, "log-level": "debug"}
            world.restart("node-b")
            answered = len(became)
            until(lambda: len(became) > answered + 20, "the new ones serve")
        assert set(became) == {world.address("client-a")}
    finally:
        world.mesh.flags = flags
        stop(world, "node-b")
        world.restart("node-b")


@contextmanager
def unnoticed(world: World) -> Iterator[Callable[[], None]]:
    """Live connections of several ways and new ones, as long as the block; called, it waits until each has gone on."""
    for pod in ("server-b", "outsider-b"):
        if (pod, ECHO_PORT) not in world.applications:
            world.serve(pod, "echo", ECHO_PORT)
    ways = (("client-a", "server-b"), ("client-b", "server-b"), ("client-b", "outsider-b"))
    dialled = (
        (f"{client} to {server} {number}", world.dial(client, world.address(server), ECHO_PORT))
        for client, server in ways
        for number in range(3)
    )
    with Streams(dialled) as live, New(world, "client-a", world.address("server-b"), 60.0) as new:

        def all_go_on() -> None:
            live.go_on()
            new.goes_on(5)

        yield all_go_on


def test_a_roll_with_both_pods_alive_loses_nothing_whatever_becomes_of_the_new_one(world: World) -> None:
    """As with maxSurge: the next pod is started beside the old one, which ends when that is ready, or goes on."""
    log = world.log("node-b")
    with agent_pods(world, "node-b") as pods:
        first = pods.start("first")
        first.serves()
        with unnoticed(world) as all_go_on:
            # It comes up: the old one lets it, and stands by until it is told to end.
            second = pods.start("second", **{"handshake-timeout-s": "9"})
            second.serves()
            assert first.is_alive and log.lines("stepping aside")
            first.end()
            all_go_on()

            # It never becomes ready: the old one goes on.
            blind = pods.start("blind", **{"xds-address": "127.0.0.1:1", "take-over-s": "2"})
            wait_gone(blind.pid)
            assert log.lines("did not come to serve within 2 s of taking over")
            blind.kill()
            second.serves()
            all_go_on()

            # It crashes in the middle.
            retired = len(log.lines("it retires"))
            crashing = pods.start("crashing", **{"handshake-timeout-s": "8"})
            until(lambda: len(log.lines("it retires")) > retired, "it has found the old one's workers")
            crashing.kill()
            second.serves()
            all_go_on()


@pytest.mark.long
def test_pods_of_a_roll_may_end_in_any_order(world: World) -> None:
    with agent_pods(world, "node-b") as pods:
        first = pods.start("first")
        first.serves()
        with unnoticed(world) as all_go_on:
            # Of the same options: it has the old one's workers, and is undone.
            second = pods.start("second")
            second.serves()
            second.end()
            first.serves()
            all_go_on()

            # Both are told to end, and another one comes.
            third = pods.start("third", **{"handshake-timeout-s": "7"})
            third.serves()
            first.end()
            third.end()
            all_go_on()
            last = pods.start("last", **{"handshake-timeout-s": "6"})
            last.serves()
            all_go_on()


@pytest.mark.long
def test_who_stands_by_goes_on_where_the_next_one_stands_still(world: World) -> None:
    log = world.log("node-b")
    with agent_pods(world, "node-b") as pods:
        first = pods.start("first")
        first.serves()
        retired = len(log.lines("it retires"))
        still = pods.start("still", **{"handshake-timeout-s": "5", "take-over-s": "4"})
        until(lambda: len(log.lines("it retires")) > retired, "it has the lock")
        os.kill(still.pid, signal.SIGSTOP)
        wait_gone(still.pid)
        assert log.lines(f"process {still.pid} did not come to serve within 4 s of taking over")
        still.kill()
        with world.manifest("deny", policy_manifest("deny-all", "[{}]", action="DENY")):
            first.serves()
            until(lambda: not world.is_served("client-a", world.address("server-b")), "policy is in force")
        until(lambda: world.is_served("client-a", world.address("server-b")), "it is open again")


def stop(world: World, node: str) -> None:
    agent = world.process(f"agent-{node}")
    if agent.is_running():
        os.kill(agent.pid, signal.SIGTERM)
        wait_gone(agent.pid)
