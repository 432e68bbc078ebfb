"""Honest connects while they are pending: what comes in between, workers that come and go, floods."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from redirect.netns import entered
from tests.support.honest import CLOSED, Connecting, fates, held, honest_mesh, standing_still, waiting
from tests.support.labmesh import (
    PORT,
    World,
    policy_manifest,
    principal,
)
from tests.support.labtraffic import Talk, until
from tests.support.ongoing import New
from tests.support.syns import SynGun

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with honest_mesh(tmp_path_factory.mktemp("honest")) as made:
        yield made


# -- while it is pending


def test_a_pending_connect_is_one_dial_however_often_its_syn_comes(world: World) -> None:
    application = world.application("server-b")
    world.ask("client-a", world.address("server-b"))
    peers = world.workers("node-b").values()
    count, seen = len(application.clients), held(world)
    with standing_still(*peers), Connecting(world, "client-a", world.address("server-b")) as connecting:
        until(lambda: held(world) >= seen + 2, "the SYN comes again")
        until(lambda: waiting(world) == 1, "and waits in the place of the first")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        assert connecting.ended() == 0
        with Talk(connecting.sock) as talk:
            talk.say()
    assert len(application.clients) == count + 1
    until(lambda: not waiting(world), "nothing is held any more")


def test_a_client_that_begins_anew_on_its_tuple_is_answered_by_its_newest_syn(world: World) -> None:
    world.ask("client-a", world.address("server-b"))
    peers, address = world.workers("node-b").values(), world.address("server-b")
    seen = held(world)
    with standing_still(*peers), ExitStack() as stack:
        with entered(world.pod("client-a").netns):
            first = socket.socket()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind((world.address("client-a"), 33333))
        first.setblocking(False)
        assert first.connect_ex((address, PORT)) == errno.EINPROGRESS
        until(lambda: held(world) > seen, "its SYN is held")
        first.close()
        seen = held(world)
        again = stack.enter_context(Connecting(world, "client-a", address, source_port=33333))
        until(lambda: held(world) > seen, "that of the next one, too")
        until(lambda: waiting(world) == 1, "in the place of the first")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        assert again.ended() == 0
        with Talk(again.sock) as talk:
            talk.say()


def test_a_syn_that_is_let_by_joins_the_dial_that_is_pending(world: World) -> None:
    """Its repetition found no ring: its connection is accepted early, and there is still one dial."""
    application, address = world.application("server-b"), world.address("server-b")
    world.ask("client-a", address)
    count, before = len(application.clients), fates(world, "joined")
    peers, seen = world.workers("node-b").values(), held(world)
    with standing_still(*peers), Connecting(world, "client-a", address) as connecting:
        until(lambda: held(world) > seen, "its SYN is held")
        with world.without_rings("node-a"):
            assert connecting.ended() == 0, "accepted, as without a gate"
        until(lambda: fates(world, "joined") > before, "and joined with its dial")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        with Talk(connecting.sock) as talk:
            talk.say()
    assert len(application.clients) == count + 1


def test_a_client_that_is_gone_costs_a_dial_and_nothing_that_stays(world: World) -> None:
    application, address = world.application("server-b"), world.address("server-b")
    count, before = len(application.clients), fates(world, "given_up")
    with SynGun(world.pod("client-a")) as gun:
        gun.send(world.address("client-a"), 44444, address, PORT)
        until(lambda: len(application.clients) > count, "its destination was reached")
        until(lambda: fates(world, "given_up") > before, "and is let go", 8.0)
    until(lambda: not waiting(world), "nothing is held any more")
    until(lambda: not world.mesh.ask("node-a", "GET", "/connections"), "nor relayed")


def test_a_policy_that_comes_while_a_connect_is_pending_refuses_it(world: World) -> None:
    """Inside of a node, on its way into the pod: the application's dial hangs, as its accept queue is full."""
    pod = world.pod("server-a")
    with entered(pod.netns):
        deaf = socket.socket()
    with ExitStack() as stack:
        stack.enter_context(deaf)
        deaf.bind((world.address("server-a"), 7777))
        deaf.listen(0)
        with entered(pod.netns):
            for _ in range(2):
                full = stack.enter_context(socket.socket())
                full.setblocking(False)
                full.connect_ex((world.address("server-a"), 7777))
        connecting = stack.enter_context(Connecting(world, "outsider-b", world.address("server-a"), 7777))
        until(lambda: waiting(world, direction="inbound") == 1, "its SYN is held")
        with world.manifest("policy", policy_manifest("test", principal("nobody"))):
            assert connecting.ended() == errno.ECONNREFUSED
    for client, server in (("outsider-b", "server-a"), ("client-a", "server-b")):
        until(lambda c=client, s=server: world.is_served(c, world.address(s)), "the mesh is open again")


def test_a_pod_that_is_let_go_has_its_pending_connects_refused_or_answered_by_their_destination(
    world: World,
) -> None:
    world.ask("client-a", world.address("server-b"))
    peers, seen = world.workers("node-b").values(), held(world)
    try:
        with standing_still(*peers), Connecting(world, "client-a", world.address("server-b")) as connecting:
            until(lambda: held(world) > seen, "its SYN is held")
            world.mesh.unenroll(world.pod("client-a"))
            until(lambda: not waiting(world), "nothing is held any more")
            for pid in peers:
                os.kill(pid, signal.SIGCONT)
            # The reset may still get through while the pod drains; else its next SYN goes past the mesh.
            assert connecting.ended() in (0, errno.ECONNREFUSED)
    finally:
        world.mesh.enroll(world.pod("client-a"))
        world.mesh.wait_announced(world.pod("client-a"))
    assert world.is_served("client-a", world.address("server-b"))


# -- what happens to workers


def test_a_worker_that_is_killed_costs_a_pending_connect_its_next_syn(world: World) -> None:
    world.ask("client-a", world.address("server-b"))
    peers, seen = world.workers("node-b").values(), held(world)
    with standing_still(*peers), Connecting(world, "client-a", world.address("server-b")) as connecting:
        until(lambda: held(world) > seen, "its SYN is held")
        former = world.workers("node-a").values()
        world.kill(*former)
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        assert connecting.ended() == 0
        with Talk(connecting.sock) as talk:
            talk.say()
    until(lambda: len(set(world.workers("node-a").values()) - set(former)) == 2, "two others are there")
    world.mesh.wait_ready("node-a")


def test_while_workers_come_and_go_nobody_is_refused(world: World) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(New(world, "client-a", world.address("server-b"))) for _ in range(3)]
        for each in crowd:
            each.goes_on()
        for _ in range(2):
            pid = world.workers("node-a")[0]
            os.kill(pid, signal.SIGTERM)
            until(lambda pid=pid: world.workers("node-a").get(0) not in (None, pid), "its successor is there")
            for each in crowd:
                each.goes_on()
    assert not [failure for each in crowd for failure in each.failures]
    world.mesh.wait_ready("node-a")


def test_while_a_worker_hangs_others_answer_and_it_comes_back(world: World) -> None:
    """The stall is seen in its ring; the other worker has its share alone until it has come round."""
    log = world.log("node-a")
    address = world.address("server-b")
    world.ask("client-a", address)
    before = fates(world, "given_up")
    pid = world.workers("node-a")[0]
    with standing_still(pid):
        with ExitStack() as stack:
            crowd = [stack.enter_context(Connecting(world, "client-a", address)) for _ in range(8)]
            assert [each.ended() for each in crowd] == [0] * 8
        log.line("connections wait at the listeners of worker 0")
        for _ in range(8):
            with pytest.raises(ConnectionRefusedError):
                world.dial("client-a", address, CLOSED)
    log.line("has come round: it serves its listeners again")
    for _ in range(16):
        assert world.is_served("client-a", address)
    until(lambda: not waiting(world), "nothing is held any more")
    # Those that it had already taken may have been answered by the other; no more than one a client.
    assert fates(world, "given_up") - before <= 8
    world.mesh.wait_ready("node-a")


def test_a_control_process_that_starts_again_finds_rings_and_workers(world: World) -> None:
    former = world.workers("node-a")
    with New(world, "client-a", world.address("server-b")) as ongoing:
        ongoing.goes_on()
        world.kill_control("node-a")
        ongoing.goes_on()
        with pytest.raises(ConnectionRefusedError):
            world.dial("client-a", world.address("server-b"), CLOSED)
        world.restart("node-a")
        ongoing.goes_on()
    assert world.workers("node-a") == former
    seen = held(world)
    with pytest.raises(ConnectionRefusedError):
        world.dial("client-a", world.address("server-b"), CLOSED)
    assert held(world) > seen


def test_who_asked_while_nobody_served_is_told_the_truth(world: World) -> None:
    def came() -> int:
        return world.counters("node-a").get(("from_pod", "NO_LISTENER"), 0)

    world.kill_all("node-a")
    before, address = came(), world.address("server-b")
    with (
        Connecting(world, "client-a", address, CLOSED) as closed,
        Connecting(world, "client-a", address) as served,
    ):
        until(lambda: came() >= before + 2, "both have come to nothing")
        world.restart("node-a")
        assert (closed.ended(), served.ended()) == (errno.ECONNREFUSED, 0)
        with Talk(served.sock) as talk:
            talk.say()


def test_without_rings_it_is_as_without_the_option(world: World) -> None:
    full = world.counters("node-a").get(("from_pod", "SYN_RING_FULL"), 0)
    with world.without_rings("node-a"):
        assert world.is_served("client-a", world.address("server-b"))
        # The reset may be there before connect() has returned, which then has it.
        with (
            pytest.raises(ConnectionResetError),
            world.dial("client-a", world.address("server-b"), CLOSED) as sock,
        ):
            sock.recv(1)
    assert world.counters("node-a")[("from_pod", "SYN_RING_FULL")] >= full + 2
    with pytest.raises(ConnectionRefusedError):
        world.dial("client-a", world.address("server-b"), CLOSED)


# -- floods


@pytest.mark.parametrize("target", ["closed", "open", "silent"])
def test_a_pod_that_floods_does_not_hurt_its_neighbour(world: World, target: str) -> None:
    host, port = {
        "closed": (world.address("server-b"), CLOSED),
        "open": (world.address("server-b"), PORT),
        "silent": ("192.0.2.1", 80),
    }[target]
    server = world.address("server-b")
    with SynGun(world.pod("client-a")) as gun:
        flood = threading.Thread(target=gun.flood, args=(world.address("client-a"), host, port, 20000, 3.0))
        flood.start()
        failures, asked = [], 0
        while flood.is_alive():
            asked += 1
            try:
                world.ask("server-a", server)
            except OSError as error:
                failures.append(repr(error))
        flood.join()
    assert asked and not failures
    until(lambda: not waiting(world), "nothing is held any more", 20.0)
    world.mesh.wait_ready("node-a")
