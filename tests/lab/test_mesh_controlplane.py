"""A control plane that goes away, comes back, repeats itself or is fed nonsense: traffic goes on by the last state."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.labmesh import (
    ENROLLED,
    SILENCE_S,
    VIP4,
    World,
    policy_manifest,
    principal,
    service_manifest,
)
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel

RECONNECT_S = 20.0
"""Agents come back with a growing pause."""


@contextmanager
def control_plane_away(world: World) -> Iterator[None]:
    """The control plane is dead for the block; at the end a new one runs and both agents follow it."""
    world.kill(world.process("control-plane").pid)
    try:
        for node in world.lab.nodes:
            until(lambda n=node: "xds=stale" in world.status(n)["line"], f"{node} has noticed")
        yield
    finally:
        world.mesh.start_control_plane()
        for node in world.lab.nodes:
            until(lambda n=node: world.status(n)["state"] == "READY", f"{node} follows", RECONNECT_S)


def test_traffic_goes_on_while_it_is_away_and_status_says_so(world: World) -> None:
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        with control_plane_away(world):
            live.say()
            assert world.is_served("client-a", world.address("server-b"))
            assert world.is_served("client-a", VIP4, 80)
            done = world.cli("status", node="node-a")
            assert done.returncode == 3
            assert done.stdout.startswith("DEGRADED ") and "control plane: stale" in done.stdout
        live.say()
    assert world.cli("status", node="node-a").returncode == 0


def test_a_policy_written_while_it_is_away_is_in_force_once_it_is_back(world: World) -> None:
    address = world.address("server-b")
    path = world.mesh.manifests / "written.yaml"
    with world.talk("client-a", address) as live:
        live.say()
        try:
            with control_plane_away(world):
                world.write(path, policy_manifest("written", "[{}]", action="DENY"))
                live.say()
            until(live.is_ended, "the live connection ends")
            assert not world.is_served("client-a", address)
        finally:
            path.unlink(missing_ok=True)
    until(lambda: world.is_served("client-a", address), "the mesh is open again")


def test_the_same_resources_again_touch_no_connection(world: World) -> None:
    """Also not where a policy allows each of them: every agent gets everything anew."""
    with world.manifest("policy", policy_manifest("test", principal("client", "server"))):
        until(lambda: not world.is_served("outsider-a", world.address("server-b")), "the policy is in force")
        logs = [world.log(node) for node in world.lab.nodes]
        talks = [world.talk("client-a", world.address(f"server-{node}")) for node in "ab"]
        try:
            for talk in talks:
                talk.say()
            before = carried(world)
            with control_plane_away(world):
                for path in world.mesh.manifests.glob("*.yaml"):
                    path.touch()
            for talk in talks:
                talk.say()
            assert carried(world) == before
            assert not [line for log in logs for line in log.lines("POLICY_CHANGED", "sa/client")]
        finally:
            for talk in talks:
                talk.__exit__()
    until(lambda: world.is_served("outsider-a", world.address("server-b")), "the mesh is open again")


def carried(world: World) -> list[list[tuple[object, ...]]]:
    """Which HBONE connections there are on each node and how many tunnels each has; their windows move."""
    names = ("direction", "identity", "peer", "tunnels")
    return [
        sorted(tuple(row[name] for name in names) for row in world.tunnels(node)) for node in world.lab.nodes
    ]


def test_a_service_deleted_and_added_again_meanwhile_keeps_its_endpoints(world: World) -> None:
    path = world.mesh.manifests / "services.yaml"
    text = path.read_text()
    with control_plane_away(world):
        path.unlink()
        world.write(path, text)
    for _ in range(8):
        assert world.is_served("client-a", VIP4, 80)
    # The same while it watches: gone for the agents too, and back.
    path.unlink()
    log = world.log("node-a")
    try:
        until(
            lambda: "demo/server.demo.svc.cluster.local" not in world.status("node-a")["services"],
            "it is gone",
        )
    finally:
        world.write(path, text)
    until(lambda: world.is_served("client-a", VIP4, 80), "it is back")
    assert 'dst.service="server.demo.svc.cluster.local"' in log.line(
        "connection complete", 'direction="outbound"', "server.demo"
    )


def test_a_service_without_endpoints_is_refused_and_not_passed_through(world: World) -> None:
    with world.manifest("empty", service_manifest("empty", "app: nobody", "10.96.77.50")):
        until(
            lambda: "demo/empty.demo.svc.cluster.local" in world.status("node-a")["services"], "it is known"
        )
        log = world.log("node-a")
        until(lambda: is_reset(world, "10.96.77.50"), "every worker knows it")
        log.line("no healthy endpoint", "dst.addr=10.96.77.50:80")
    until(lambda: "demo/empty.demo.svc.cluster.local" not in world.status("node-a")["services"], "it is gone")


def is_reset(world: World, vip: str) -> bool:
    try:
        with world.dial("client-a", vip, 80) as sock:
            sock.settimeout(SILENCE_S)
            sock.recv(1)
    except ConnectionResetError:
        return True
    except TimeoutError:
        pass
    return False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "broken.yaml"),
        (service_manifest("x", "app: server", "10.96.77.999"), "10.96.77.999"),
        (policy_manifest("x", '[{from: [{source: {ipBlocks: ["10.0.0.0/99"]}}]}]'), "10.0.0.0/99"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: demo}\nspec: {}\n", "nodeName"),
    ],
    ids=["no-yaml", "bad-address", "bad-cidr", "no-node"],
)
def test_a_broken_manifest_leaves_the_last_good_state_served(world: World, text: str, reason: str) -> None:
    log = world.mesh.log("control-plane")
    start = log.stat().st_size
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        with world.manifest("broken", text):

            def line() -> list[str]:
                new = log.read_text()[start:].splitlines()
                return [each for each in new if reason in each and "broken.yaml" in each]

            until(line, "the control plane names file and field")
            assert world.is_served("client-a", VIP4, 80)
            live.say()
        live.say()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            policy_manifest("typo", principal("x"), selector="pod: server-b").replace("action", "acton"),
            "spec.action?",
        ),
        (
            policy_manifest(
                "typo",
                principal("x").replace("cluster.local", "other"),
                action="DENY",
                selector="pod: server-b",
            ),
            "nobody can be 'other/ns/demo/sa/x'",
        ),
    ],
    ids=["refused", "no-effect"],
)
def test_what_is_refused_or_does_nothing_is_seen_where_people_look(
    world: World, text: str, said: str
) -> None:
    """In the control plane's status and in that of the agent whose pod it was meant for, while traffic goes on."""
    plane = ("control-plane", "status", "--state-dir", str(world.mesh.state_dir))
    with world.manifest("typo", text):
        until(lambda: said in world.cli("status", node="node-b").stdout, "node-b says it")
        done = world.cli("status", node="node-b")
        assert done.returncode == 3 and "pod demo/server-b: control plane: " in done.stdout
        [finding] = [f for f in world.status("node-b")["proof"]["findings"] if said in f["reason"]]
        assert (finding["pod"], finding["link"]) == ("demo/server-b", "control plane")
        assert "typo.yaml:" in finding["reason"] and finding["remedy"]
        until(lambda: world.status("node-a")["state"] == "READY", "no pod of node-a is meant")
        done = world.cli(*plane)
        assert done.returncode == 3 and said in done.stdout
        assert world.is_served("client-a", world.address("server-b"))
    until(lambda: world.status("node-b")["state"] == "READY", "it is over")
    assert world.cli(*plane).returncode == 0


def test_a_control_plane_that_hangs_stops_nothing(world: World) -> None:
    pid = world.process("control-plane").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert world.is_served("client-a", world.address("server-b"))
    finally:
        os.kill(pid, signal.SIGCONT)
    with world.manifest("policy", policy_manifest("test", principal("nobody"))):
        until(lambda: not world.is_served("client-a", world.address("server-b")), "policies work again")
    until(lambda: world.is_served("client-a", world.address("server-b")), "the mesh is open again")


def test_one_that_has_lost_what_was_reported_hears_it_again(world: World) -> None:
    """Else enrolled pods would talk in clear for ever, each agent believing that the other's are not captured."""
    with control_plane_away(world):
        (world.mesh.state_dir / "enrolled.json").unlink()
    world.mesh.wait_announced(*map(world.pod, ENROLLED))
    log = world.log("node-a")
    assert world.is_served("client-a", world.address("server-b"))
    line = log.line('dst.workload="server-b"')
    assert "dst.hbone_addr=" in line
