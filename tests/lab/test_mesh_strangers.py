"""Crowds of strangers at the tunnel port: how many the programs let come, and what the others cost workers.

On node-b the programs let all of them come, to workers that may open a few hundred files.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from agent.lab.agents import ZTUN, LabMesh
from redirect.netns import entered
from tests.support.client_hello import hello
from tests.support.labmesh import World
from tests.support.labtraffic import until, wait_gone

pytestmark = pytest.mark.kernel

HBONE = 15008
FILES = 512
CROWD = 1500
STRANGERS = ("outsider-a", "spare-a", "outsider-b", "spare-b", "node-a")


@pytest.fixture(scope="module")
def tight(world: World) -> Iterator[World]:
    """The mesh with an agent on node-b whose processes may open FILES files."""
    world.kill_control("node-b")
    # Another configuration: workers that were there before, with their own limit, are not adopted.
    few = ("prlimit", f"--nofile={FILES}:{FILES}", *ZTUN)
    LabMesh(world.lab, {"drain-deadline-s": "2", "stranger-rate": "0"}, ztun=few).start_agent(
        world.node("node-b")
    )
    world.mesh.wait_ready("node-b")
    yield world
    world.kill_control("node-b")
    world.restart("node-b")


def crowd(world: World, stack: ExitStack, count: int, word: bytes) -> None:
    """So many connections to server-b from all the strangers, which say this and then nothing."""
    for name in STRANGERS:
        with entered(world.place(name).netns):
            for _ in range(count // len(STRANGERS)):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex((world.address("server-b"), HBONE))
                stack.callback(sock.close)
                sock.setblocking(True)
                sock.settimeout(10)
                try:
                    sock.send(word)
                except OSError:
                    continue  # given up before it spoke


def dropped(world: World, node: str) -> int:
    return world.counters(node).get(("to_pod", "STRANGER_TOO_FAST"), 0)


def connected(socks: list[socket.socket]) -> int:
    """How many of them are, by now; none may have been refused."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLOUT)
    ready = poll.poll(0)
    assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 for sock in socks)
    return sum(not mask & (select.POLLHUP | select.POLLERR) for _, mask in ready)


def test_one_address_opens_only_so_many_until_it_has_proven_itself(world: World) -> None:
    address, many = world.address("server-a"), 100
    assert world.is_served("client-b", address)
    before = dropped(world, "node-a")
    with ExitStack() as stack:
        with entered(world.place("outsider-b").netns):
            socks = [stack.enter_context(socket.socket()) for _ in range(many)]
            for sock in socks:
                sock.setblocking(False)
                sock.connect_ex((address, HBONE))
        until(lambda: connected(socks) >= 64, "those that may come at once")
        until(lambda: dropped(world, "node-a") - before >= 20, "others were dropped")
        assert connected(socks) < many
        # Who has proven itself, by a tunnel, is known by its address.
        rows = json.loads(world.cli("maps", "dump", "members", "-o", "json", node="node-a").stdout)["members"]
        assert world.address("client-b") in [row["address"] for row in rows]
        assert world.address("outsider-b") not in [row["address"] for row in rows]
        for sock in socks:
            sock.close()
        # It is slowed down, not refused: its SYN comes again.
        world.dial("outsider-b", address, HBONE, timeout_s=30).close()
    reasons = {"program": "to_pod", "reason": "STRANGER_TOO_FAST"}
    until(lambda: world.metric("node-a", "ztun_redirect_packets_total", **reasons) > 0, "its metric")


def test_the_connections_are_lowered_to_what_the_limit_allows_and_it_is_said(tight: World) -> None:
    text = tight.mesh.log("agent-node-b").read_text()
    assert (
        f"--max-connections 50000 takes 112916 files in each worker, and a process may open {FILES}" in text
    )


@pytest.mark.parametrize("word", [hello(), b"nonsense"], ids=["half-open", "garbage"])
def test_a_crowd_of_strangers_costs_no_connection_of_the_mesh(tight: World, word: bytes) -> None:
    address = tight.address("server-b")
    workers = tight.workers("node-b")
    log = tight.log("node-b")
    with ExitStack() as stack:
        live = [stack.enter_context(tight.talk("client-a", address)) for _ in range(4)]
        plain = stack.enter_context(tight.talk("outsider-a", address))
        for talk in (*live, plain):
            talk.say()
        failed = tight.metric("node-b", "ztun_handshake_failures_total", side="server")
        crowd(tight, stack, CROWD, word)
        until(
            lambda: (
                tight.metric("node-b", "ztun_handshake_failures_total", side="server") - failed
                > CROWD * 3 / 4
            ),
            "most have given way",
            patience_s=60,
        )
        for talk in (*live, plain):
            talk.say()
        assert all(tight.is_served("client-a", address) for _ in range(20))
        assert tight.workers("node-b") == workers
        assert len(log.lines("connection failed")) < 500
    until(lambda: tight.metric("node-b", "ztun_handshakes_open") == 0, "all are gone")


def test_a_worker_that_strangers_fill_takes_over_the_listeners_of_another(tight: World) -> None:
    address = tight.address("server-b")
    workers = tight.workers("node-b")
    with ExitStack() as stack:
        crowd(tight, stack, CROWD, hello())
        os.kill(workers[0], signal.SIGKILL)
        wait_gone(workers[0])
        until(lambda: tight.workers("node-b").get(0, workers[0]) != workers[0], "its successor")
        assert tight.workers("node-b")[1] == workers[1], "being full is no reason to end it"
        assert tight.is_served("client-a", address)


def test_plaintext_of_strangers_leaves_descriptors_to_the_mesh(tight: World) -> None:
    address = tight.address("server-b")
    workers = tight.workers("node-b")
    with ExitStack() as stack:
        for name in STRANGERS[:4]:
            for _ in range(100):
                with suppress(ConnectionError):
                    stack.callback(tight.dial(name, address).close)
        assert all(tight.is_served("client-a", address) for _ in range(20))
        assert tight.workers("node-b") == workers
