"""An agent is restarted with other options, and its workers' successors go on with what is live: nobody notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.cgroups import container
from tests.support.labmesh import World, policy_manifest, principal, running
from tests.support.labtraffic import until, wait_gone
from tests.support.ongoing import New
from tests.support.streams import Streams
from tests.support.systemd_unit import flags

pytestmark = pytest.mark.kernel

ECHO_PORT = 7007
PATIENCE_S = 60.0
WAYS = {
    "hbone": ("client-a", "server-b"),
    "same node": ("client-a", "server-a"),
    "passthrough": ("client-a", "outsider-b"),
    "plain to a pod": ("outsider-a", "server-b"),
}
"""By what they are: a client and a server."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    options = {"drain-deadline-s": "1", "start-patience-s": f"{PATIENCE_S:g}", "pod-name": "agent-0"}
    with running("g", tmp_path_factory.mktemp("handover"), flags=options) as made:
        for pod in ("server-a", "server-b", "outsider-b"):
            made.serve(pod, "echo", ECHO_PORT)
        yield made


def successor(world: World, node: str, **options: str) -> None:
    """Another agent with other options waits, then the first one is asked to end; returns when nothing is left."""
    first, before = world.process(f"agent-{node}"), world.workers(node)
    world.mesh.flags |= options
    log = world.log(node)
    world.mesh.start_agent(world.node(node))
    until(lambda: log.lines("waiting until it ends"), "the second one waits")
    os.kill(first.pid, signal.SIGTERM)
    world.mesh.wait_ready(node)
    until(lambda: not world.status(node)["retiring_workers"], "the workers of before are gone")
    for pid in before.values():
        wait_gone(pid)
    assert not set(before.values()) & set(world.workers(node).values())


def streams(world: World, ways: dict[str, tuple[str, str]], count: int) -> Streams:
    return Streams(
        (f"{name} {number}", world.dial(client, world.address(server), ECHO_PORT))
        for name, (client, server) in ways.items()
        for number in range(count)
    )


def as_systemd_restarts(world: World, node: str, *, crashes: bool = False) -> None:
    """KillMode=process: the agent alone is asked to end, or has ended; then it is started again."""
    agent = world.process(f"agent-{node}")
    os.kill(agent.pid, signal.SIGKILL if crashes else signal.SIGTERM)
    wait_gone(agent.pid)
    world.restart(node)
    until(lambda: not world.status(node)["retiring_workers"], "the workers of before are gone")


def counted(world: World, node: str) -> dict[str, float]:
    names = ("connections_opened", "connections_closed", "received_bytes", "sent_bytes")
    return {name: world.metric(node, f"istio_tcp_{name}_total") for name in names}


def test_what_is_live_survives_two_restarts_of_each_agent(world: World) -> None:
    with streams(world, WAYS, 4) as live, ExitStack() as stack:
        live.go_on()
        new = [
            stack.enter_context(New(world, client, world.address(server), PATIENCE_S))
            for client, server in WAYS.values()
        ]
        seen = {node: counted(world, node) for node in ("node-a", "node-b")}
        for name in ("agent-1", "agent-2"):
            for node in ("node-a", "node-b"):
                opened = seen[node]
                successor(world, node, **{"pod-name": name})
                live.go_on()
                for each in new:
                    each.goes_on(5)
                now = counted(world, node)
                assert all(now[name] >= opened[name] for name in now), (opened, now)
                seen[node] = now
        for each in new:
            assert not each.failures, each.failures
    for node in ("node-a", "node-b"):
        until(
            lambda node=node: world.metric(node, "istio_tcp_sockets_open") == 0, "nothing is counted as open"
        )
        now = counted(world, node)
        assert now["connections_opened"] == now["connections_closed"]
        assert world.metric(node, "ztun_handed_over_total") > 0


def test_a_policy_that_comes_in_the_middle_cuts_whom_it_forbids_and_nobody_else(world: World) -> None:
    """In the worker that it has, or in the one that it comes to."""
    forbidden = {"forbidden": ("client-a", "server-b"), "forbidden here": ("client-b", "server-b")}
    allowed = {
        name: way for name, way in WAYS.items() if way not in forbidden.values() and way[1] != "server-b"
    }
    policy = policy_manifest("test", principal("nobody"), selector="pod: server-b")
    for name in ("agent-3", "agent-4"):
        with streams(world, forbidden, 4) as cut, streams(world, allowed, 4) as live:
            for each in (cut, live):
                each.go_on()
            with ExitStack() as stack:
                before = world.workers("node-b")
                first, log = world.process("agent-node-b"), world.log("node-b")
                world.mesh.flags |= {"pod-name": name}
                world.mesh.start_agent(world.node("node-b"))
                until(lambda log=log: log.lines("waiting until it ends"), "the second one waits")
                os.kill(first.pid, signal.SIGTERM)
                until(lambda log=log: log.lines("it retires"), "it has found the workers of the first one")
                stack.enter_context(world.manifest("policy", policy))
                until(lambda cut=cut: len(cut.failures) == len(cut.all), "whoever is forbidden is cut")
                live.go_on()
                world.mesh.wait_ready("node-b")
                until(lambda: not world.status("node-b")["retiring_workers"], "nothing is left of the first")
                assert not set(before.values()) & set(world.workers("node-b").values())
                live.go_on()
        until(lambda: world.is_served("client-a", world.address("server-b")), "the policy is gone")


def test_a_restart_by_systemd_loses_nothing(world: World) -> None:
    """The command of the unit, in a control group of its own; with other options, with the same, and after a crash."""
    successor(world, "node-b", **flags(), **{"pod-name": "unit"})
    with streams(world, WAYS, 2) as live, ExitStack() as stack:
        live.go_on()
        agent = world.process("agent-node-b")
        stack.enter_context(container(agent.pid, *world.workers("node-b").values()))
        new = stack.enter_context(New(world, "client-a", world.address("server-b"), PATIENCE_S))
        for option in ("9", "9", "8"):
            before = world.workers("node-b")
            is_other = world.mesh.flags.get("handshake-timeout-s") != option
            world.mesh.flags |= {"handshake-timeout-s": option}
            as_systemd_restarts(world, "node-b")
            assert (world.workers("node-b") != before) == is_other
            live.go_on()
            new.goes_on(5)
        as_systemd_restarts(world, "node-b", crashes=True)
        live.go_on()
        new.goes_on(5)


def test_a_control_process_that_dies_in_the_middle_costs_nobody_anything(world: World) -> None:
    """The next one finds workers of both generations, wherever they were."""
    with streams(world, WAYS, 6) as live:
        live.go_on()
        for name in ("agent-5", "agent-6"):
            log = world.log("node-a")
            first = world.process("agent-node-a")
            world.mesh.flags |= {"pod-name": name}
            world.mesh.start_agent(world.node("node-a"))
            until(lambda log=log: log.lines("waiting until it ends"), "the second one waits")
            os.kill(first.pid, signal.SIGTERM)
            # The one time when the first has handed over, the other time before.
            sign = "has handed over" if name == "agent-5" else "serving: "
            until(lambda log=log, sign=sign: log.lines(sign), "it is under way")
            world.kill_control("node-a")
            live.go_on()
            world.restart("node-a")
            until(lambda: not world.status("node-a")["retiring_workers"], "nothing is left of the first")
            live.go_on()
