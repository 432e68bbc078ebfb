"""Agents that start again when little is there: no control plane, a pod nobody knows, an interface that went."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from agent.lab import wiring
from redirect.netns import entered
from redirect.reconcile import Redirection
from tests.support.labmesh import POD, SILENCE_S, World
from tests.support.labtraffic import until
from tests.support.wall_clock import clock_of_children

pytestmark = pytest.mark.kernel

RECONNECT_S = 20.0
HOUR_S = 3600
MANY = 12
"""Enough for both workers to have one: the kernel spreads them by a hash."""
BOTH_WAYS = (("client-a", "server-b"), ("client-b", "server-a"))


@contextmanager
def no_control_plane(world: World) -> Iterator[None]:
    world.kill(world.process("control-plane").pid)
    try:
        yield
    finally:
        world.mesh.start_control_plane()
        for node in world.lab.nodes:
            until(lambda n=node: world.status(n)["state"] == "READY", f"{node} follows", RECONNECT_S)


def captured(world: World, node: str) -> set[str]:
    """Addresses that the kernel captures on a node."""
    rows = world.cli("maps", "dump", "pods", node=node).stdout.splitlines()[1:]
    return {row.split()[0] for row in rows if "ENROLLED" in row}


def interface_comes_and_goes(world: World, node: str) -> None:
    """News from netlink, as on every node all day."""
    with entered(world.node(node).netns), IPRoute() as ip:
        ip.link("add", ifname="hjnews", kind="veth", peer={"ifname": "hjnews2"})
        (index,) = ip.link_lookup(ifname="hjnews")
        ip.link("del", index=index)


def answers(world: World, node: str) -> bool:
    try:
        world.status(node)
    except Exception:
        return False
    return True


def test_a_control_process_without_control_plane_leaves_its_workers_serving(world: World) -> None:
    before = captured(world, "node-a")
    workers = world.workers("node-a")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        with no_control_plane(world):
            world.kill_control("node-a")
            world.mesh.start_agent(world.node("node-a"))
            until(
                lambda: world.workers("node-a") == workers if answers(world, "node-a") else False, "adoption"
            )
            interface_comes_and_goes(world, "node-a")
            live.say()
            assert world.is_served("client-a", world.address("server-b"))
            assert captured(world, "node-a") == before
            assert world.status("node-a")["state"] == "DEGRADED"
        live.say()


def test_an_agent_that_never_had_state_keeps_its_pods_closed(world: World) -> None:
    before = captured(world, "node-a")
    with no_control_plane(world):
        world.kill_all("node-a")
        world.mesh.start_agent(world.node("node-a"))
        until(lambda: answers(world, "node-a") and len(world.workers("node-a")) == 2, "it runs")
        interface_comes_and_goes(world, "node-a")
        with pytest.raises(TimeoutError):
            world.dial("client-a", world.address("outsider-b"), timeout_s=SILENCE_S)
        assert captured(world, "node-a") == before
    assert world.is_served("client-a", world.address("server-b"))


def test_after_a_reboot_pods_that_run_before_the_agent_are_closed_and_that_is_told(world: World) -> None:
    """The kernel side is gone with it, and the wishes are there."""
    world.kill_all("node-a")
    instance, run_dir = world.mesh.instance("node-a"), world.mesh.run_dir("node-a")
    with entered(world.node("node-a").netns), closing(Redirection(instance, run_dir)) as redirection:
        redirection.uninstall()
    with world.talk("client-a", world.address("outsider-b")) as before:
        assert before.say()["client"] == before.address, "nobody is there who would capture it"
        log = world.log("node-a")
        world.restart("node-a")
        assert " had come by it" in log.line("leads to pod demo/client-a and is closed")
        with pytest.raises(ConnectionResetError):
            before.say()
    world.mesh.wait_announced(*(world.pod(name) for name in ("client-a", "server-a")))
    assert world.ask("client-a", world.address("server-b")) == world.address("client-a")
    log.line('direction="outbound"', "sa/client")


def test_a_captured_pod_nobody_knows_is_closed_until_somebody_does(world: World) -> None:
    pods = world.mesh.manifests / "pods.yaml"
    text = pods.read_text()
    record = POD.format(name="client-b", account="client", node="node-b", side=2, low=11)
    before = captured(world, "node-b")
    try:
        world.write(pods, text.replace(record, ""))
        until(lambda: world.status("node-b")["state"] == "DEGRADED", "it is missed")
        until(lambda: not world.is_served("client-b", world.address("outsider-b")), "it is closed")
        world.kill_all("node-b")
        world.mesh.start_agent(world.node("node-b"))
        reasons = until(
            lambda: answers(world, "node-b") and " ".join(world.status("node-b")["reasons"]), "it says why"
        )
        until(lambda: world.is_served("client-a", world.address("server-b")), "the others are served")
        reasons = " ".join(world.status("node-b")["reasons"])
        assert (
            "pod demo/client-b: control plane: enrolled, but the control plane no longer lists it" in reasons
        )
        assert not world.is_served("client-b", world.address("outsider-b"))
        assert captured(world, "node-b") == before
    finally:
        world.write(pods, text)
    world.mesh.wait_ready("node-b")
    assert world.ask("client-b", world.address("server-a")) == world.address("client-b")


def test_a_pod_whose_interface_goes_is_forgotten_and_may_come_again(world: World) -> None:
    pod = world.pod("spare-a")
    world.mesh.enroll(pod)
    with entered(world.node("node-a").netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=pod.ifname)
        ip.link("del", index=index)
    until(lambda: len(world.status("node-a")["pods"]) == 2, "it is forgotten")
    assert world.address("spare-a") not in captured(world, "node-a")
    wiring.attach_pod(world.node("node-a").netns, pod.netns, pod.ifname, pod.addresses)
    wiring.wait_until_up(pod.netns)
    assert world.is_served("spare-a", world.address("outsider-b"))
    world.mesh.enroll(pod)
    log = world.log("node-a")
    assert world.ask("spare-a", world.address("server-b")) == world.address("spare-a")
    log.line('direction="outbound"', "sa/spare")
    world.mesh.unenroll(pod)


def are_replaced(old: dict[int, int], new: dict[int, int]) -> bool:
    return old.keys() == new.keys() and not set(old.values()) & set(new.values())


@contextmanager
def unread(path: Path) -> Iterator[int]:
    """In place of a log file a full pipe that nobody reads; the descriptor to read it by."""
    kept = path.with_suffix(".kept")
    path.rename(kept)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        assert os.write(writer, b"\n" * 65536) < 65536
        os.close(writer)
        yield reader
    finally:
        os.close(reader)
        path.unlink()
        kept.rename(path)


def test_an_agent_whose_log_nobody_reads_starts_serves_and_replaces_its_workers(world: World) -> None:
    world.kill_all("node-a")
    with unread(world.mesh.log("agent-node-a")) as reader:
        world.restart("node-a")
        assert world.is_served("client-a", world.address("server-b"))
        old = world.workers("node-a")
        world.kill(*old.values())
        until(lambda: are_replaced(old, world.workers("node-a")), "new workers")
        assert world.is_served("client-a", world.address("server-b"))
        assert world.status("node-a")["log_lines_lost"] == {}
        for log in ("access", "process"):
            assert world.metric("node-a", "ztun_log_lines_lost_total", log=log) == 0
        seen = bytearray()

        def reads(text: str) -> bool:
            while chunk := read_now(reader):
                seen.extend(chunk)
            return text in seen.decode()

        until(lambda: reads(f"(pid {old[0]}) is gone"), "what was said in the meantime")
        until(lambda: reads("connection complete"), "the connection through the new workers")
        # Before the pipe goes: what it cannot take any more is lost, and this agent would count it.
        world.kill_all("node-a")
    world.restart("node-a")


def read_now(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def test_where_the_clock_is_an_hour_off_what_is_live_goes_on_and_nobody_is_let_in_by_it(
    world: World, tmp_path: Path
) -> None:
    """That of one node. Ahead nothing is over yet; behind nothing is valid yet, and what the CA sends is not either."""
    server = world.address("server-b")
    world.kill_all("node-a")
    try:
        with clock_of_children(tmp_path) as clock:
            world.restart("node-a")
        log, failures = world.log("node-a"), not_yet_valid(world)
        with world.talk("client-a", server) as live:
            live.say()
            clock.set_ahead(HOUR_S)
            live.say()
            world.proven_anew("node-a")
            assert world.status("node-a")["state"] == "READY"
        without_tunnels(world)
        assert [world.is_served(client, world.address(to)) for client, to in BOTH_WAYS] == [True, True]
        with world.talk("client-a", server) as live:
            live.say()
            clock.set_ahead(-HOUR_S)
            live.say()
            assert any(world.is_served("client-a", server) for _ in range(MANY)), (
                "by the tunnel that is there"
            )
            log.line("not as it should be: pod demo/client-a: certificate", "it is not valid before")
            assert world.status("node-a")["state"] == "DEGRADED"
            live.say()
        without_tunnels(world)
        assert [world.is_served(client, world.address(to)) for client, to in BOTH_WAYS] == [False, False]
        until(lambda: not_yet_valid(world) > failures, "it is counted")
        clock.set_ahead(0)
        for client, to in BOTH_WAYS:
            until(partial(world.is_served, client, world.address(to)), f"{client} is served again")
        world.mesh.wait_ready("node-a")
    finally:
        world.kill_all("node-a")
        world.restart("node-a")


def not_yet_valid(world: World) -> float:
    return world.metric("node-a", "ztun_handshake_failures_total", reason="not_yet_valid")


def without_tunnels(world: World) -> None:
    """Whoever asks now needs a handshake."""
    world.kill(*world.workers("node-a").values())
