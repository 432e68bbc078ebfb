"""What a node asks its own pods (kubelet's probes) is answered all through an enrolment, however long that takes.

Real agents, namespaces and traffic. The control plane that signs certificates stands still meanwhile, so that the pods
are captured and closed for as long as the test wants.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from redirect.netns import entered
from tests.support.labcluster import MODE, LabCluster
from tests.support.labmesh import PORT, SILENCE_S, World, running
from tests.support.labtraffic import Sniffer, Talk, until

pytestmark = pytest.mark.kernel
PERIOD_S = 0.05
PROBE_S = 1.0
"""The kubelet's own time-out, unless a pod says otherwise."""
MORE = 20
"""Probes for each state that a pod is in."""
NAMES = ("client-a", "server-a", "client-b", "server-b")


@pytest.fixture(scope="module")
def world(cluster: LabCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("probes")
    with running("p", directory, flags=cluster.flags, enrolled=False, prepare=cluster.prepare) as made:
        cluster.api.change("pods", "outsider-a", "demo", metadata={"labels": {MODE: "none"}})
        yield made


class Probes:
    """One after the other, from a node to a pod of its own; each a connection of its own."""

    def __init__(self, world: World, version: int) -> None:
        self._world, self._address = world, world.address("server-a", version)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answered = 0
        self.failed: list[str] = []

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def more(self) -> None:
        """Return after some more, whatever came of them."""
        before = self._count
        until(lambda: self._count >= before + MORE, "probes", 60)

    @property
    def _count(self) -> int:
        return self.answered + len(self.failed)

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            try:
                with Talk(self._world.dial("node-a", self._address, timeout_s=PROBE_S)) as talk:
                    talk.say()
                self.answered += 1
            except OSError as error:
                self.failed.append(f"probe {self._count} of {self._address}: {error!r}")


@contextmanager
def standing_still(world: World) -> Iterator[None]:
    """The control plane answers nobody: no state, no certificate."""
    process = world.process("control-plane")
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def is_closed(world: World) -> bool:
    """Both pods of node-a wait for certificates."""
    reasons = [reason for reason in world.status("node-a")["reasons"] if "captured and closed" in reason]
    return all(any(f"demo/{name}" in reason for reason in reasons) for name in ("client-a", "server-a"))


def is_served(world: World, *names: str) -> bool:
    rows = [row for node in ("node-a", "node-b") for row in world.status(node)["pods"]]
    return {row["pod"].removeprefix("demo/") for row in rows} == set(names)


def is_silent(world: World, client: str, host: str, port: int = PORT) -> bool:
    """Whether a new connection gets no answer at all."""
    try:
        world.dial(client, host, port, SILENCE_S).close()
    except TimeoutError:
        return True
    except OSError as error:
        raise AssertionError(f"{client} hears of {host}: {error}") from error
    return False


def test_probes_are_answered_while_a_running_pod_waits_for_its_certificate(
    world: World, cluster: LabCluster
) -> None:
    node = str(world.node("node-a").addresses[0])
    with ExitStack() as stack:
        probes = [stack.enter_context(Probes(world, version)) for version in (4, 6)]
        kept = stack.enter_context(Talk(world.dial("node-a", world.address("server-a"))))
        service = stack.enter_context(listening(world, "node-a"))
        for each in probes:
            each.more()
        with standing_still(world):
            cluster.label("ambient")
            until(lambda: is_closed(world), "the pods are captured and closed")
            with Sniffer(world.node("node-a").netns, world.address("client-a")) as wire:
                # Nothing that a closed pod begins leaves it, nor does anything come in but from its node.
                assert is_silent(world, "client-a", world.address("outsider-b"))
                assert is_silent(world, "client-a", node, service), "the node is no way out"
                assert is_silent(world, "outsider-b", world.address("server-a"))
                assert wire.frames == []
            for each in probes:
                each.more()
            kept.say("while it is closed")
            assert is_closed(world)
        until(lambda: is_served(world, *NAMES), "everybody is served")
        for each in probes:
            each.more()
        kept.say("when it is served")
    assert [each.failed for each in probes] == [[], []], [each.answered for each in probes]
    assert world.counters("node-a")["from_pod", "CLOSED_HOST_FLOW"]
    assert world.is_served("client-a", world.address("server-b"))
    cluster.label(None)
    until(lambda: is_served(world), "nobody is served")


@contextmanager
def listening(world: World, node: str) -> Iterator[int]:
    """A service of the node's own; its port."""
    with entered(world.node(node).netns):
        sock = socket.create_server(("0.0.0.0", 0))
    with sock:
        yield sock.getsockname()[1]


def test_labels_that_come_and_go_lose_no_probe(world: World, cluster: LabCluster) -> None:
    """The moment of the capture itself: connections that are open just then."""
    with ExitStack() as stack:
        probes = [stack.enter_context(Probes(world, version)) for version in (4, 6)]
        for _ in range(5):
            cluster.label("ambient")
            until(lambda: is_served(world, *NAMES), "everybody is served")
            cluster.label(None)
            until(lambda: is_served(world), "nobody is served")
    assert [each.failed for each in probes] == [[], []], [each.answered for each in probes]
