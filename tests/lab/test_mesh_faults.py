"""Processes of ztun that die or hang: what connections notice, and that nothing gets past the mesh meanwhile."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.admin.client import AgentRefused
from agent.cli import main
from agent.lab.agents import LabMesh
from redirect import features
from redirect.layout import GUARDS
from redirect.pins import Pins
from redirect.side import sides_of
from tests.support.attached import guards_in, links_in
from tests.support.both_ends import both_ends, is_told_reset, without_more_syns
from tests.support.cgroups import counts_memory, memory_group
from tests.support.labglass import (
    ON_NODE,
    SHORT_S,
    all_stopped,
    bypass,
    is_open,
    is_refused,
    is_reset,
    seen_by_agent,
    ztun,
)
from tests.support.labmesh import SILENCE_S, World, policy_manifest, principal
from tests.support.labtraffic import PATIENCE_S, Sniffer, Talk, until, wait_gone
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
        if node == "node-a":
            says_who_serves(world)
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


def says_who_serves(world: World) -> None:
    """No remedy that would end what workers serve."""
    served = "no agent; its workers serve by the last state"
    status, listed = ztun(world, "status"), ztun(world, "connections")
    assert status.exit_code == 4 and status.stdout.startswith(f"DEAD {served}: start it again"), status.output
    assert str(listed.exception).startswith(f"{served}: start it again")
    told = " ".join(ztun(world, "doctor", "--only", "agent").stdout.split())
    assert served in told and "uninstall" not in told


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


def open_one(world: World, stack: ExitStack) -> None:
    with suppress(OSError):
        stack.enter_context(world.talk("client-a", world.address("server-b"))).say()


@pytest.mark.long
@pytest.mark.skipif(not counts_memory(), reason="memory is counted by no control groups of version 1")
def test_where_the_agents_memory_is_used_up_the_kernel_ends_a_worker_and_never_control(
    world: World, tmp_path: Path
) -> None:
    """All of an agent in one control group, as in a container. Control is larger than a worker at first."""
    with memory_group(tmp_path) as group:
        world.kill_all("node-a")
        group.join(os.getpid())
        try:
            world.restart("node-a")
        finally:
            group.leave(os.getpid())
        log, control = world.log("node-a"), world.process("agent-node-a").pid
        workers = world.workers("node-a")
        try:
            group.tighten()
            with ExitStack() as talks:
                until(lambda: group.killed or open_one(world, talks), "memory is used up")
        finally:
            group.free()
        log.line("worker ", "is gone: ")
        until(lambda: set(world.workers("node-a")) == set(workers), "its successor is there")
        assert world.workers("node-a") != workers and world.process("agent-node-a").pid == control
        assert world.is_served("client-a", world.address("server-b"))
        world.mesh.wait_ready("node-a")


def first_free(pid: int) -> int:
    """The lowest number that no descriptor of a process has."""
    taken = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def test_workers_without_descriptors_let_new_connections_wait_and_say_so(world: World) -> None:
    log, paused = world.log("node-a"), world.metric("node-a", "ztun_accept_pauses_total")
    workers = world.workers("node-a")
    with world.talk("client-a", world.address("server-b")) as live, ExitStack() as limits:
        live.say()
        for pid in workers.values():
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            limits.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, before)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free(pid), before[1]))
        waiting = Waiting(world, "client-a", world.address("server-b"))
        log.line("nothing is accepted: the descriptors of this worker are used up")
        until(lambda: world.metric("node-a", "ztun_accept_pauses_total") > paused, "it is counted")
        assert not waiting.result
        # What waits for long is given to the others as well, and they have no room for it either.
        log.line("connections wait at the listeners of worker", "another serves them too")
        world.tunnels("node-a")  # asked of every worker, behind that
        live.say()
        limits.close()
        assert waiting.answer() == world.address("client-a")
        live.say()
    world.mesh.wait_ready("node-a")
    assert world.workers("node-a") == workers


def test_control_without_descriptors_says_so_and_its_workers_go_on(world: World) -> None:
    log, server, control = world.log("node-a"), world.address("server-b"), world.process("agent-node-a").pid
    workers = world.workers("node-a")
    with world.talk("client-a", server) as live, ExitStack() as limits:
        live.say()
        before = resource.prlimit(control, resource.RLIMIT_NOFILE)
        limits.callback(resource.prlimit, control, resource.RLIMIT_NOFILE, before)
        resource.prlimit(control, resource.RLIMIT_NOFILE, (first_free(control), before[1]))
        with pytest.raises(AgentRefused, match=r"Too many open files.*raise the limit of open files"):
            world.mesh.enroll(world.pod("spare-a"))
        log.line("not as it should be: proof: ", "Too many open files")
        assert world.status("node-a")["state"] == "DEGRADED"
        assert world.metric("node-a", "process_open_fds") >= world.metric("node-a", "process_max_fds")
        # Nobody can be put in its place meanwhile.
        world.kill(workers[1])
        log.line("Too many open files", "raise the limit of open files", "trying again in")
        live_or_reset(live)
        assert all(world.is_served("client-a", server) for _ in range(CONNECTIONS))
        assert {row["pod"] for row in world.status("node-a")["pods"]} == {"demo/client-a", "demo/server-a"}
        assert world.is_served("spare-a", world.address("outsider-b")), "it is as it was"
    until(lambda: set(world.workers("node-a")) == set(workers), "its successor is there")
    assert world.workers("node-a")[0] == workers[0] and world.process("agent-node-a").pid == control
    world.mesh.wait_ready("node-a")


def live_or_reset(talk: Talk) -> None:
    """Whether it was at the worker that has ended is the kernel's choice; it has no third way."""
    if not talk.is_ended():
        talk.say()


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
    with (
        both_ends(world, "client-a", "server-b") as live,
        Sniffer(world.node("node-a").netns, world.address("client-a")) as wire,
    ):
        world.kill_all("node-a")
        assert all(map(is_told_reset, live)), "the kernel ends what the proxy had"
        _ = wire.in_clear
        drops = world.counters("node-a").get(("from_pod", "NO_LISTENER"), 0)
        quiet = len(until_quiet(wire))
        for host in (server, outside):
            with pytest.raises(TimeoutError):
                world.dial("client-a", host, timeout_s=SILENCE_S)
        assert len(wire.in_clear) == quiet
        assert world.counters("node-a")["from_pod", "NO_LISTENER"] >= drops + 2
    assert world.ask("outsider-a", outside) == world.address("outsider-a")
    assert world.is_served("node-a", world.address("server-a")), "the host's own probe is answered"
    drops = world.counters("node-a")["from_pod", "NO_LISTENER"]
    waiting = Waiting(world, "client-a", server)
    until(lambda: world.counters("node-a")["from_pod", "NO_LISTENER"] > drops, "its SYN has come to nothing")
    with without_more_syns(world.pod("client-a").netns):
        world.restart("node-a")
        assert waiting.answer() == world.address("client-a"), "it does not depend on its client to try again"
    assert {pod["pod"] for pod in world.status("node-a")["pods"]} == {"demo/client-a", "demo/server-a"}


def until_quiet(wire: Sniffer) -> list[bytes]:
    """What was on the wire, once nothing has come for a while."""
    count = -1
    while count != len(wire.in_clear):
        count = len(wire.in_clear)
        threading.Event().wait(SILENCE_S)
    return wire.in_clear


def test_with_all_of_ztun_dead_no_application_is_reached_past_it(world: World) -> None:
    server = world.address("server-b")
    seen = len(world.application("server-b").clients)
    with (
        both_ends(world, "client-a", "server-b") as tunnelled,
        both_ends(world, "outsider-a", "server-b") as clear,
    ):
        world.kill_all("node-b")
        assert all(map(is_told_reset, (*tunnelled, *clear)))
    with pytest.raises(TimeoutError):
        world.dial("outsider-a", server, timeout_s=SILENCE_S)
    drops = world.counters("node-b")["to_pod", "NO_LISTENER"]
    tunnel, plain = Waiting(world, "client-a", server), Waiting(world, "outsider-a", server)
    assert world.is_served("node-b", server), "the host's own probe is answered"
    assert len(world.application("server-b").clients) == seen + 1
    until(
        lambda: world.counters("node-b")["to_pod", "NO_LISTENER"] >= drops + 2,
        "both SYNs have come to nothing",
    )
    dials = sides_of(world.mesh.instance("node-a"))[1].netns
    with without_more_syns(world.pod("outsider-a").netns, dials):
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


def test_with_all_of_ztun_dead_and_all_pins_removed_nothing_leaves_in_clear(world: World) -> None:
    """Where programs are tcx links nothing holds them then: neither with workers, nor without."""
    server, outside = world.address("server-b"), world.address("outsider-b")
    pins = Pins(world.mesh.instance("node-a"), world.mesh.run_dir("node-a"))
    workers, home = world.workers("node-a").values(), world.node("node-a").netns
    if features.has_tcx():
        until(lambda: guards_in(home) >= len(GUARDS) * 2, "both pods have their guards")
    world.kill_control("node-a")
    try:
        remove_pins(pins.root)
        # The kernel takes a link off a while after its last pin is gone.
        until(lambda: links_in(home) == 0, "nothing holds the links")
        for host in (server, outside):
            with pytest.raises(TimeoutError):
                world.dial("client-a", host, timeout_s=SILENCE_S)
        world.kill(*workers)
        with Sniffer(home, world.address("client-a")) as wire:
            quiet = len(until_quiet(wire))
            for host in (server, outside):
                with pytest.raises(TimeoutError):
                    world.dial("client-a", host, timeout_s=SILENCE_S)
            assert len(wire.in_clear) == quiet
    finally:
        world.restart("node-a")
    assert world.status("node-a")["line"].split()[2] == "pods=2/2"
    assert world.is_served("client-a", server)
    assert world.is_served("client-b", world.address("server-a"))


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


def test_with_all_of_ztun_stopped_pods_speak_in_clear_until_the_end_and_no_longer(world: World) -> None:
    outside, server = world.address("outsider-b"), world.address("server-a")
    with world.manifest("policy", policy_manifest("test", principal("nobody"))):
        until(lambda: is_refused(world, "outsider-b", server), "the policy is in force")
        with world.talk("client-a", outside) as before, all_stopped(world):
            before.sock.settimeout(SILENCE_S)
            assert is_refused(world, "client-a", outside)
            said = bypass(world, *ON_NODE, "--for", f"{SHORT_S}s", "--reason", "test: all is stopped").stdout
            assert "demo/client-a: in clear until" in said and "log" in said
            assert is_reset(before), "what the stopped proxy had"
            # In clear, both ways: what the policy refuses, too.
            for version in (4, 6):
                to = world.address("outsider-b", version)
                assert world.ask("client-a", to) == world.address("client-a", version)
            assert world.ask("outsider-b", server) == world.address("outsider-b")
            assert {row["pod"] for row in is_open(world)} == set(ON_NODE)
            with world.talk("client-a", outside) as out, world.talk("outsider-b", server) as into:
                out.say()
                into.say()
                until(lambda: not is_open(world), "it is over")
                into.sock.settimeout(SILENCE_S)
                out.sock.settimeout(SILENCE_S)
                assert is_reset(out) and is_reset(into)
            counted = world.counters("node-a")
            assert is_refused(world, "client-a", outside) and is_refused(world, "outsider-b", server)
            after = world.counters("node-a")
            for program in ("from_pod", "to_pod"):
                for reason in ("OPEN_SYN", "OPEN"):
                    assert after[program, reason] == counted[program, reason] > 0
    until(lambda: world.is_served("client-a", server), "the mesh is open again")


def test_an_agent_keeps_it_until_its_end_and_says_so(world: World) -> None:
    outside, log = world.address("outsider-b"), world.log("node-a")
    bypass(world, "demo/client-a", "--for", "1h30m", "--reason", "test: a\nlong one", "--keep-existing")
    log.line("bypass: pod demo/client-a speaks in clear", "test: a long one (by ")
    (row,) = world.status("node-a")["bypasses"]
    assert row["scope"] == "pod" and row["pod"] == "demo/client-a" and 5000 < row["left_s"] <= 5400
    shown = ztun(world, "status")
    assert shown.exit_code == 3 and "bypass: pod demo/client-a speaks in clear" in shown.stdout
    assert world.metric("node-a", "ztun_bypasses", scope="pod") == 1
    assert 5000 < world.metric("node-a", "ztun_bypass_left_seconds", scope="pod") <= 5400
    with world.talk("client-a", outside) as talk:
        talk.say()
        # A reconciliation, and a new agent, neither undo nor prolong it.
        world.kill_all("node-a")
        dead = ztun(world, "status")
        assert dead.exit_code == 4 and "bypass: pod demo/client-a speaks in clear for 1h2" in dead.stdout
        world.mesh.start_agent(world.node("node-a"))
        (again,) = until(lambda: seen_by_agent(world), "the next agent sees it")
        assert again["left_s"] < row["left_s"]
        talk.say()
        log = world.log("node-a")
        said = bypass(world, "demo/client-a", "--off").stdout
        assert "no longer in clear" in said
        until(talk.is_ended, "it is cut, and both ends are told")
        log.line("bypass of demo/client-a is over")
    world.mesh.wait_ready("node-a")
    assert world.metric("node-a", "ztun_bypasses") == 0
    captured = world.counters("node-a")["from_pod", "SYN_TO_PROXY"]
    assert world.ask("client-a", outside) == world.address("client-a")
    assert world.counters("node-a")["from_pod", "SYN_TO_PROXY"] > captured


def test_the_whole_node_is_opened_and_one_pod_of_it_stays_as_it_is_afterwards(world: World) -> None:
    server = world.address("server-a")
    bypass(world, "demo/server-a", "--for", "1h", "--reason", "its own")
    bypass(world, "--node", "--for", "30m", "--reason", "all of it")
    assert [(row["scope"], row["pod"]) for row in is_open(world)] == [("node", ""), ("pod", "demo/server-a")]
    with (
        world.talk("client-a", world.address("outsider-b")) as client,
        world.talk("outsider-b", server) as into,
    ):
        client.say()
        into.say()
        bypass(world, "--node", "--off")
        until(client.is_ended, "the pod that is open no longer is cut")
    assert [row["pod"] for row in is_open(world)] == ["demo/server-a"]
    bypass(world, "demo/server-a", "--off")
    assert not is_open(world) and "no pod is open" in bypass(world).stdout
    world.mesh.wait_ready("node-a")


def test_eject_takes_a_pod_out_until_an_agent_is_back(world: World) -> None:
    outside = world.address("outsider-b")
    refused = ztun(world, "eject", "demo/client-a", "--reason", "test")
    assert refused.exit_code == 1 and "the agent runs" in refused.stderr
    world.kill_all("node-a")
    with pytest.raises(TimeoutError):
        world.dial("client-a", outside, timeout_s=SILENCE_S)
    done = ztun(world, "eject", "demo/client-a", "--reason", "test")
    assert done.exit_code == 0 and "out of the mesh" in done.stdout, done.stderr
    assert world.ask("client-a", outside) == world.address("client-a")
    with pytest.raises(TimeoutError):
        world.dial("outsider-b", world.address("server-a"), timeout_s=SILENCE_S)
    said = "enrolled, but nothing of it is captured"
    for command in (["bypass"], ["status"], ["audit"], ["doctor", "--only", "break glass"]):
        told = " ".join(ztun(world, *command).stdout.split())
        assert said in told and "demo/client-a" in told and "demo/server-a: " not in told, told
    assert f"demo/client-a: {said}" in ztun(world, "doctor", "--pod", "demo/client-a").stderr
    world.restart("node-a")
    assert said not in ztun(world, "bypass").stdout
    captured = world.counters("node-a")["from_pod", "SYN_TO_PROXY"]
    assert world.ask("client-a", outside) == world.address("client-a")
    assert world.counters("node-a")["from_pod", "SYN_TO_PROXY"] > captured


def test_a_pod_that_is_not_there_opens_none_of_those_that_are(world: World) -> None:
    done = ztun(world, "bypass", "demo/client-a", "demo/nobody", "--for", "1m", "--reason", "x")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no captured pod demo/nobody" in done.stderr and "demo/server-a" in done.stderr
    done = ztun(world, "bypass", "demo/client-a", "--for", "1m", "--reason", "x" * 500)
    assert (done.exit_code, done.stdout) == (1, "") and "there is room for" in done.stderr
    assert not is_open(world)


def test_an_instance_that_has_no_maps_is_named() -> None:
    asked = ["bypass", "--node", "--for", "1m", "--reason", "x", "--instance", f"nobody{os.getpid()}"]
    done = CliRunner().invoke(main.ztun, asked)
    assert done.exit_code == 1 and "has no pinned maps" in done.stderr
