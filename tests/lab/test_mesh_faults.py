"""Processes of ztun that die or hang: what connections notice, and that nothing gets past the mesh meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from agent.lab.agents import LabMesh
from redirect.pins import Pins
from tests.support.labmesh import SILENCE_S, World, policy_manifest, principal
from tests.support.labtraffic import PATIENCE_S, Sniffer, until, wait_gone
from tests.support.ongoing import New, Traffic, Waiting
from tests.support.redirect_lab import remove_pins

pytestmark = pytest.mark.kernel

CONNECTIONS = 12
"""Enough for every worker to have one: the kernel spreads them by a hash."""


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the agent may have lost patience with it
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_the_control_process_alone_may_die(world: World, node: str) -> None:
    workers = world.workers(node)
    with Traffic(world, "client-a", world.address("server-b")) as traffic:
        traffic.goes_on()
        world.kill_control(node)
        traffic.goes_on()
        world.restart(node)
        assert world.workers(node) == workers
        traffic.goes_on()
    assert not traffic.failures
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        with world.manifest("policy", policy_manifest("test", principal("nobody"))):
            until(live.is_ended, "adopted workers hear of the policy")
        until(lambda: world.is_served("client-a", world.address("server-b")), "the mesh is open again")


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_when_one_worker_dies_the_others_go_on_and_it_is_replaced(world: World, node: str) -> None:
    address = world.address("server-b")
    reporter = {"node-a": "source", "node-b": "destination"}[node]
    workers = world.workers(node)
    with ExitStack() as stack:
        talks = [stack.enter_context(world.talk("client-a", address)) for _ in range(CONNECTIONS)]
        for talk in talks:
            talk.say()
        opened = until(
            lambda: world.metric(node, "istio_tcp_connections_opened_total", reporter=reporter), "figures"
        )
        world.kill(workers[0])
        for _ in range(CONNECTIONS):
            assert world.is_served("client-a", address)
        ended = [talk.is_ended() for talk in talks]
        for talk, is_ended in zip(talks, ended, strict=True):
            if not is_ended:
                talk.say()
        if node == "node-a":
            assert 0 < ended.count(True) < CONNECTIONS
    until(lambda: set(world.workers(node)) == set(workers), "its successor is there")
    assert world.workers(node)[0] != workers[0] and world.workers(node)[1] == workers[1]
    assert world.metric(node, "istio_tcp_connections_opened_total", reporter=reporter) >= opened
    world.mesh.wait_ready(node)


@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_connections_queued_at_a_worker_that_hangs_are_served_by_another(world: World, node: str) -> None:
    """In plaintext: what comes through a tunnel to the hung worker is lost with it."""
    client, server = {"node-a": ("client-a", "outsider-b"), "node-b": ("outsider-a", "server-b")}[node]
    with stopped(world.workers(node)[0]):
        waiting = [Waiting(world, client, world.address(server)) for _ in range(CONNECTIONS)]
        assert {each.answer() for each in waiting} == {world.address(client)}
    world.mesh.wait_ready(node)


def test_with_all_of_ztun_dead_new_connections_wait_and_nothing_leaks(world: World) -> None:
    server = world.address("server-b")
    outside = world.address("outsider-b")
    with world.talk("client-a", server) as live:
        live.say()
        with Sniffer(world.node("node-a").netns, world.address("client-a")) as wire:
            world.kill_all("node-a")
            until(live.is_ended, "the kernel closes what the proxy had")
            _ = wire.frames
            drops = world.counters("node-a").get(("from_pod", "NO_LISTENER"), 0)
            quiet = len(until_quiet(wire))
            for host in (server, outside):
                with pytest.raises(TimeoutError):
                    world.dial("client-a", host, timeout_s=SILENCE_S)
            assert len(wire.frames) == quiet
            assert world.counters("node-a")["from_pod", "NO_LISTENER"] >= drops + 2
    assert world.ask("outsider-a", outside) == world.address("outsider-a")
    assert world.is_served("node-a", world.address("server-a")), "the host's own probe is answered"
    waiting = Waiting(world, "client-a", server)
    world.restart("node-a")
    assert waiting.answer() == world.address("client-a")
    assert {pod["pod"] for pod in world.status("node-a")["pods"]} == {"demo/client-a", "demo/server-a"}


def until_quiet(wire: Sniffer) -> list[bytes]:
    """What was on the wire, once nothing has come for a while."""
    count = -1
    while count != len(wire.frames):
        count = len(wire.frames)
        threading.Event().wait(SILENCE_S)
    return wire.frames


def test_with_all_of_ztun_dead_no_application_is_reached_past_it(world: World) -> None:
    server = world.address("server-b")
    seen = len(world.application("server-b").clients)
    world.kill_all("node-b")
    with pytest.raises(TimeoutError):
        world.dial("outsider-a", server, timeout_s=SILENCE_S)
    tunnel, plain = Waiting(world, "client-a", server), Waiting(world, "outsider-a", server)
    assert world.is_served("node-b", server), "the host's own probe is answered"
    assert len(world.application("server-b").clients) == seen + 1
    world.restart("node-b")
    assert plain.answer() == world.address("outsider-a")
    assert tunnel.answer() == world.address("client-a")


def test_a_restart_finds_programs_and_pods_in_the_pins(world: World) -> None:
    pins = Pins(world.mesh.instance("node-a"), world.mesh.run_dir("node-a"))
    before = {path.name: path.stat().st_ino for path in pins.generation.iterdir()}
    process = world.process("agent-node-a")
    process.terminate()
    process.wait(PATIENCE_S)
    assert world.cli("status", node="node-a").returncode == 4
    waiting = Waiting(world, "client-a", world.address("server-b"))
    world.restart("node-a")
    assert waiting.answer() == world.address("client-a")
    assert {path.name: path.stat().st_ino for path in pins.generation.iterdir()} == before
    assert world.status("node-a")["line"].split()[2] == "pods=2/2"


def test_pins_removed_beneath_an_agent_open_nobody_and_are_made_again(world: World) -> None:
    server = world.address("server-b")
    pins = Pins(world.mesh.instance("node-a"), world.mesh.run_dir("node-a"))
    before = {path.name for path in pins.root.rglob("*")}
    captured = world.counters("node-a")["from_pod", "SYN_TO_PROXY"]
    with New(world, "client-a", server) as traffic:
        traffic.goes_on()
        remove_pins(pins.root)
        traffic.goes_on()
        world.mesh.enroll(world.pod("spare-a"))
        traffic.goes_on()
    assert not traffic.failures
    assert before < {path.name for path in pins.root.rglob("*")}
    assert world.is_served("spare-a", server)
    assert world.counters("node-a")["from_pod", "SYN_TO_PROXY"] > captured + traffic.served
    world.mesh.unenroll(world.pod("spare-a"))
    world.kill_control("node-a")
    world.restart("node-a")
    assert world.status("node-a")["line"].split()[2] == "pods=2/2"
    assert world.is_served("client-a", server)


def test_an_agent_with_other_settings_takes_over_without_refusing_anyone(world: World) -> None:
    """What an upgrade does: workers of the former kind drain, those of the new kind have their listeners."""
    former = world.workers("node-a")
    with New(world, "client-a", world.address("server-b")) as traffic:
        traffic.goes_on()
        world.kill_control("node-a")
        other = LabMesh(world.lab, {"pool-idle-s": "299"})
        other.start_agent(world.node("node-a"))
        other.wait_ready("node-a")
        assert set(former.values()).isdisjoint(world.workers("node-a").values())
        traffic.goes_on()
    assert not traffic.failures
    for pid in former.values():
        wait_gone(pid)


def test_a_draining_agent_lets_live_connections_finish(world: World) -> None:
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        process = world.process("agent-node-a")
        process.terminate()
        until(lambda: world.http("node-a", 15021, "/healthz/ready")[0] != 200, "it is not ready any more")
        live.say()
        process.wait(PATIENCE_S)
        until(live.is_ended, "what lasts longer than the deadline is ended")
    world.restart("node-a")
    assert world.is_served("client-a", world.address("server-b"))
