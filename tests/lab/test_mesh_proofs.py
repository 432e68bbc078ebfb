"""READY is observed: what is taken away from under a running agent shows in its status within seconds, by name.

Nothing here tells the agent that something has changed; it has to find out.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from agent.lab import firewall
from agent.lab.capture import LinkCapture
from redirect import netns, sys_bpf
from redirect.pins import Pins
from tests.support.labglass import ztun
from tests.support.labmesh import World
from tests.support.labtraffic import until
from tests.support.redirect_lab import remove_pins

pytestmark = pytest.mark.kernel


def findings(world: World, node: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.status(node)["proof"]["findings"]
    return found


def is_ready(world: World, node: str) -> bool:
    return bool(world.status(node)["state"] == "READY")


def test_a_mesh_that_works_proves_it_round_after_round_and_leaves_no_line(world: World) -> None:
    log = world.log("node-b")
    world.ask("client-a", world.address("server-b"))
    for _ in range(2):
        world.proven_anew("node-b")
    status = world.status("node-b")
    assert (status["state"], status["proof"]["findings"]) == ("READY", [])
    # The dials of the proofs are nobody's connections.
    assert not [line for line in log.lines() if "169.254.77.1" in line]


def test_listeners_that_no_worker_accepts_on_are_named(world: World) -> None:
    workers = world.workers("node-b")
    for pid in workers.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not is_ready(world, "node-b"), "somebody notices")
        reasons = [found["reason"] for found in findings(world, "node-b") if found["link"] == "listener"]
        assert any("nobody accepts on the hbone listener (port 15008)" in reason for reason in reasons)
        done = world.cli("status", node="node-b")
        assert done.returncode == 3
        assert "DEGRADED" in done.stdout and "nobody accepts" in done.stdout
    finally:
        for pid in workers.values():
            os.kill(pid, signal.SIGCONT)
    until(lambda: is_ready(world, "node-b"), "the workers are back")
    assert world.workers("node-b") == workers


REJECTING = """
table inet hjproof {
  chain forward {
    type filter hook forward priority 0;
    tcp dport 15008 reject with tcp reset
  }
}
"""


def test_a_pod_whose_tunnels_all_fail_is_named_with_the_reason(world: World) -> None:
    # A connection to the same pod that is there already would be used again.
    world.kill(*world.workers("node-a").values())
    until(lambda: is_ready(world, "node-a"), "new workers")
    firewall.apply(world.node("node-b").netns, REJECTING)
    try:

        def is_found() -> list[dict[str, Any]]:
            assert not world.is_served("client-a", world.address("server-b"))
            return [found for found in findings(world, "node-a") if found["link"] == "peer"]

        (found,) = until(is_found, "every connection fails")
        assert found["pod"] == "demo/client-a"
        assert "every HBONE connection it needs fails" in found["reason"]
        assert "Connection refused" in found["reason"]
    finally:
        firewall.apply(world.node("node-b").netns, "delete table inet hjproof")
    until(lambda: world.is_served("client-a", world.address("server-b")), "the way is free")
    until(lambda: is_ready(world, "node-a"), "one that works is proof enough")


def pins(world: World) -> Pins:
    return Pins(world.mesh.instance("node-a"), world.mesh.run_dir("node-a"))


def take_off(world: World) -> None:
    """The program that captures what client-a sends, its pin and the link."""
    with netns.entered(world.node("node-a").netns):
        index = socket.if_nametoindex(world.pod("client-a").ifname)
    path = pins(world).links / f"{index}-from_pod"
    fd = sys_bpf.obj_get(path)
    path.unlink()
    sys_bpf.link_detach(fd)
    os.close(fd)


def delete_device(world: World, suffix: str) -> None:
    with netns.entered(world.node("node-a").netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=f"{world.mesh.instance('node-a')}-{suffix}")
        ip.link("del", index=index)


def flush_routes(world: World) -> None:
    with netns.entered(netns.path_of(f"{world.mesh.instance('node-a')}-net")), IPRoute() as ip:
        ip.flush_routes(table=100, family=socket.AF_INET)


TAKEN: dict[str, tuple[Callable[[World], None], str]] = {
    "program": (take_off, "passed"),
    "pod side's device": (lambda world: delete_device(world, "mo"), "-mo is missing"),
    "net side's device": (lambda world: delete_device(world, "mi"), "-mi is missing"),
    "routes": (flush_routes, "local default route in table 100 is missing"),
    "name": (
        lambda world: netns.remove(f"{world.mesh.instance('node-a')}-pod"),
        "-pod is gone or leads elsewhere",
    ),
    "pins": (lambda world: remove_pins(pins(world).root), "prog_from_pod was gone"),
}


def test_a_pin_is_made_again_before_the_next_proof_so_that_a_kill_opens_nobody(world: World) -> None:
    with netns.entered(world.node("node-a").netns):
        index = socket.if_nametoindex(world.pod("client-a").ifname)
    path, server = pins(world).links / f"{index}-from_pod", world.address("server-b")
    log = world.log("node-a")
    for _ in range(3):
        path.unlink()
        until(path.exists, "it is pinned again")
    assert log.lines(f"pin {path.name} was gone")
    assert len(log.lines("not whole")) < 3, "by news; a proof may happen to come first"
    path.unlink()
    until(path.exists, "it is pinned again")
    world.kill_control("node-a")
    with (
        LinkCapture(world.node("node-a").netns, b"not-in-clear") as capture,
        world.talk("client-a", server) as talk,
    ):
        talk.say("not-in-clear")
    report = capture.report()
    assert report.tls_records and not report.marker_seen
    world.restart("node-a")


@pytest.mark.parametrize("what", TAKEN)
def test_what_somebody_takes_away_is_made_again_beneath_live_connections(world: World, what: str) -> None:
    """By news or by the next proof, whichever comes first."""
    take_away, line = TAKEN[what]
    server = world.address("server-b")
    # What passed meanwhile is counted from the last proof of the pod, which may have been captured just now.
    world.proven_anew("node-a")
    before = {path.name for path in pins(world).root.rglob("*")}
    namespaces = [path.stat().st_ino for path in private(world)]
    with world.talk("client-a", server) as out, world.talk("client-b", world.address("server-a")) as into:
        out.say()
        into.say()
        log, repaired = world.log("node-a"), world.metric("node-a", "ztun_drift_repaired_total")
        assert drift(world) == []
        take_away(world)
        log.line("kernel: ", line)
        out.say()
        into.say()
    until(lambda: drift(world) == [], "the audit finds nothing any more")
    assert world.metric("node-a", "ztun_drift_repaired_total") > repaired
    assert world.ask("client-a", server) == world.address("client-a")
    assert world.ask("client-b", world.address("server-a", 6)) == world.address("client-b", 6)
    assert is_captured(world)
    until(lambda: is_ready(world, "node-a"), "nothing is left of it")
    assert [path.stat().st_ino for path in private(world)] == namespaces
    assert len({path.name for path in pins(world).root.rglob("*")}) == len(before)


def passed(world: World) -> dict[str, int]:
    """What the agent says may have passed unguarded, which its metric says too."""
    # Who asks for the metrics has the counters read, which the status has as of the last second.
    counted = {
        way: world.metric("node-a", "ztun_unguarded_packets_total", direction=way)
        for way in ("outbound", "inbound")
    }
    assert world.status("node-a")["unguarded_packets"] == counted
    return {way: int(count) for way, count in counted.items()}


def test_a_program_put_before_ours_is_overtaken_and_what_passed_is_counted(world: World) -> None:
    server, log, before = world.address("server-b"), world.log("node-a"), passed(world)
    prog_fd = sys_bpf.load_verdict("greedy", 0)
    try:
        with world.talk("client-a", server) as out:
            out.say()
            with netns.entered(world.node("node-a").netns):
                index = socket.if_nametoindex(world.pod("client-a").ifname)
                link_fd = sys_bpf.link_create(prog_fd, index, sys_bpf.BPF_TCX_INGRESS, sys_bpf.BPF_F_BEFORE)
            try:
                told = re.search(
                    r"no more than (\d+) packets? of its pod and (\d+) to it", log.line("passed")
                )
                assert log.lines("greedy")
                out.say()
                assert is_captured(world)
                until(lambda: is_ready(world, "node-a"), "nothing is left of it")
            finally:
                os.close(link_fd)
    finally:
        os.close(prog_fd)
    assert told
    after = passed(world)
    assert [after[way] - before[way] for way in ("outbound", "inbound")] == [int(told[1]), int(told[2])]
    said = world.cli("status", node="node-a")
    assert said.returncode == 0
    assert (f"no more than {after['outbound']} packet" in said.stdout) == any(after.values())


def drift(world: World) -> list[dict[str, Any]]:
    """What `ztun audit` says."""
    done = ztun(world, "audit", "-o", "json")
    answer = json.loads(done.stdout)
    assert answer["desired_by"] == "agent" and answer["interfaces"] == 2, answer
    found: list[dict[str, Any]] = answer["drift"]
    assert done.exit_code == bool(found)
    return found


def private(world: World) -> list[Path]:
    return [netns.path_of(f"{world.mesh.instance('node-a')}-{side}") for side in ("pod", "net")]


def is_captured(world: World) -> bool:
    """Whether a new connection of client-a goes to the proxy."""
    before = world.counters("node-a")["from_pod", "SYN_TO_PROXY"]
    with closing(world.dial("client-a", world.address("outsider-b"))):
        return world.counters("node-a")["from_pod", "SYN_TO_PROXY"] > before
