"""The run directory taken away, hidden or made read-only beneath a running agent: it is said, and made again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.labmesh import World
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel


def test_one_that_is_removed_is_made_again_with_all_that_leads_to_the_agent(world: World) -> None:
    directory = world.mesh.run_dir("node-a")
    wishes = (directory / "wishes.json").read_bytes()
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        # Where the machine has no bpffs, that of the lab is mounted in there, and stays.
        subprocess.run(("rm", "-rf", "--one-file-system", str(directory)), check=False)
        assert not (directory / "wishes.json").exists()
        until(lambda: world.cli("status", node="node-a").returncode == 0, "commands find the agent again")
        assert (directory / "wishes.json").read_bytes() == wishes
        assert directory.stat().st_mode & 0o777 == 0o700
        second = world.mesh.start_agent(world.node("node-a"))
        assert second.wait() == 1, "there is one agent for a run directory"
        assert "another agent runs on" in world.mesh.log("agent-node-a").read_text()
        worker = world.workers("node-a")[0]
        live.say()
    world.kill(worker)
    until(lambda: world.workers("node-a").get(0) not in (None, worker), "a worker has room for its socket")
    assert world.is_served("client-a", world.address("server-b"))


@contextmanager
def mounted(directory: Path, *commands: tuple[str, ...]) -> Iterator[None]:
    """Something over a directory; the first of the commands makes it."""
    subprocess.run(commands[0], check=True)
    try:
        for command in commands[1:]:
            subprocess.run(command, check=True)
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(directory)), check=True)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """What it is on has no room left."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        filler.unlink()


def test_one_that_something_is_mounted_over_is_made_again_there_and_below_and_may_be_full(
    world: World,
) -> None:
    directory, spare = world.mesh.run_dir("node-a"), world.pod("spare-a")
    with mounted(directory, ("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory))):
        until(lambda: world.cli("status", node="node-a").returncode == 0, "commands find the agent there")
        assert (directory / "wishes.json").exists()
        with filled(directory):
            refused = world.cli("enroll", spare.key, "--netns", str(spare.netns), node="node-a")
            assert refused.returncode == 1, "what could not be kept is not promised"
            assert "No space left on device" in refused.stderr and "wishes.json" in refused.stderr
            assert '"spare-a"' not in (directory / "wishes.json").read_text(), "it is as it was, and whole"
            let_go = world.cli("unenroll", "demo/client-a", node="node-a")
            assert let_go.returncode == 0, let_go.stderr
            status = world.cli("status", node="node-a")
            assert status.returncode == 3 and "wishes cannot be kept" in status.stdout
        world.mesh.enroll(world.pod("client-a"))
        world.mesh.wait_ready("node-a")
        assert '"client-a"' in (directory / "wishes.json").read_text()
    until(lambda: world.cli("status", node="node-a").returncode == 0, "commands find the agent again")


def test_one_that_became_read_only_is_named_and_ends_nothing(world: World) -> None:
    directory = world.mesh.run_dir("node-a")
    bound = ("mount", "--bind", str(directory), str(directory))
    closed = ("mount", "-o", "remount,bind,ro", str(directory))
    # The kernel side's lock is made by the first change; a later one needs no more than to open it.
    world.mesh.enroll(world.pod("spare-a"))
    world.mesh.unenroll(world.pod("spare-a"))
    worker = world.workers("node-a")[0]
    with mounted(directory, bound, closed):
        until(lambda: "it is read-only" in world.cli("status", node="node-a").stdout, "it is named")
        world.kill(worker)
        until(lambda: 0 not in world.workers("node-a"), "its end is heard")
        assert world.is_served("client-a", world.address("server-b")), "the other worker serves"
        refused = world.cli("enroll", "demo/spare-a", "--ifname", "pod-spare-a", node="node-a")
        assert refused.returncode == 1 and "Read-only file system" in refused.stderr
        let_go = world.cli("unenroll", "demo/client-a", node="node-a")
        assert let_go.returncode == 0, let_go.stderr
        status = world.cli("status", node="node-a")
        assert status.returncode == 3 and "wishes cannot be kept" in status.stdout
    until(lambda: 0 in world.workers("node-a"), "its successor is started as soon as it can be")
    world.mesh.enroll(world.pod("client-a"))
    world.mesh.wait_ready("node-a")
    assert '"client-a"' in (directory / "wishes.json").read_text()
    world.mesh.wait_announced(world.pod("client-a"))
