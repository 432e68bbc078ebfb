"""`ztun uninstall` beside what still runs: it refuses, stops, or ends what it finds, and the next agent starts anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from redirect import netns
from redirect.pins import Pins
from tests.support.labmesh import ENROLLED, World

pytestmark = pytest.mark.kernel

ON_NODE = ("client-a", "server-a")


def left_of(world: World) -> list[str]:
    """Namespaces, pins, files and processes of the instance of node-a."""
    instance, run_dir = world.mesh.instance("node-a"), world.mesh.run_dir("node-a")
    found = [netns.path_of(f"{instance}-{side}") for side in ("pod", "net")]
    found += [Pins(instance, run_dir).root, run_dir]
    processes = [
        str(process.pid)
        for process in psutil.process_iter(["cmdline"])
        if str(run_dir) in " ".join(process.info["cmdline"] or ())
    ]
    return [str(path) for path in found if path.exists()] + processes


def uninstall(world: World, *flags: str) -> subprocess.CompletedProcess[str]:
    """On the node, as a user of it would."""
    with netns.entered(world.node("node-a").netns):
        return world.cli("uninstall", *flags, node="node-a")


def come_back(world: World) -> None:
    """The next agent, and its pods enrolled again."""
    world.restart("node-a")
    for name in ON_NODE:
        world.mesh.enroll(world.pod(name))
    world.mesh.wait_announced(*map(world.pod, ENROLLED))


def is_served_both_ways(world: World) -> bool:
    return world.is_served("client-a", world.address("server-b")) and world.is_served(
        "client-b", world.address("server-a", 6)
    )


def test_while_an_agent_runs_it_refuses_in_one_line_and_changes_nothing(world: World) -> None:
    workers = world.workers("node-a")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        done = uninstall(world)
        assert done.returncode == 1 and not done.stdout
        assert done.stderr == (
            f"ztun: an agent runs on {world.mesh.run_dir('node-a')}: stop it first, or have it stopped with --stop\n"
        )
        live.say()
    assert world.workers("node-a") == workers
    assert is_served_both_ways(world)


def test_told_to_stop_the_agent_it_leaves_nothing(world: World) -> None:
    process = world.process("agent-node-a")
    done = uninstall(world, "--stop")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the agent stops\n")
    assert done.stdout.endswith(f"nothing of instance {world.mesh.instance('node-a')} is left\n")
    process.wait(5)
    assert left_of(world) == []
    assert world.ask("client-a", world.address("outsider-b")) == world.address("client-a"), "pods are open"
    come_back(world)
    assert is_served_both_ways(world)


def test_workers_that_a_killed_agent_left_are_ended_and_their_connections_reset(world: World) -> None:
    workers = set(world.workers("node-a").values())
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        world.kill_control("node-a")
        live.say()
        done = uninstall(world)
        assert (done.returncode, done.stderr) == (0, "")
        for pid in workers:
            assert f"ended a worker that was left behind (pid {pid})" in done.stdout
        with pytest.raises(ConnectionResetError):
            live.say()
    assert left_of(world) == []
    come_back(world)
    assert workers.isdisjoint(world.workers("node-a").values())
    assert is_served_both_ways(world)


def test_elsewhere_than_on_its_node_it_refuses(world: World) -> None:
    """It would see neither filters nor devices, and say that nothing is left."""
    workers = world.workers("node-a")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        done = world.cli("uninstall", "--stop", node="node-a")
        assert done.returncode == 1 and not done.stdout, "the agent has not been asked to stop"
        assert "belongs to another network namespace than this one: run it where the agent ran" in done.stderr
        assert f"nsenter --net={world.node('node-a').netns} ztun" in done.stderr
        live.say()
    assert world.workers("node-a") == workers


def test_what_keeps_a_private_namespace_alive_is_named(world: World) -> None:
    world.kill_all("node-a")
    with netns.entered(netns.path_of(f"{world.mesh.instance('node-a')}-net")):
        shell = psutil.Popen(["sleep", "60"])
    try:
        done = uninstall(world)
        assert done.returncode == 1
        assert f"live on while processes are in them: sleep (pid {shell.pid}); end those" in done.stderr
    finally:
        shell.kill()
        shell.wait()
    again = uninstall(world)
    assert (again.returncode, again.stderr) == (0, "")
    assert left_of(world) == []
    come_back(world)
    assert is_served_both_ways(world)


def test_an_instance_that_nobody_knows_leaves_no_trace(world: World, tmp_path: Path) -> None:
    for where in (["--run-dir", str(tmp_path / "nowhere")], []):
        done = world.cli("uninstall", "--instance", "nobody", *where)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("nothing of instance nobody is here: no /")
    # Labs of other tests come and go there meanwhile, under names of their own.
    found = [
        *Path("/run").glob("*nobody*"),
        *Path("/run/ztun").glob("*nobody*"),
        *netns.RUN_DIR.glob("*nobody*"),
    ]
    assert not found
    assert not os.listdir(tmp_path)
