"""An agent is restarted with other options, and its workers' successors go on with what is live: nobody notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.labmesh import World, running
from tests.support.labtraffic import until, wait_gone
from tests.support.ongoing import New
from tests.support.streams import Streams

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
    flags = {"drain-deadline-s": "1", "start-patience-s": f"{PATIENCE_S:g}", "pod-name": "agent-0"}
    with running("g", tmp_path_factory.mktemp("handover"), flags=flags) as made:
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
