"""Where the pins lie: one set of programs, whatever happens to /sys/fs/bpf between two starts of the agent.

Each test has mounts of its own, by a thread with a mount namespace of its own: those of the machine are untouched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from redirect import lifetime, netns, sys_bpf
from redirect.desired import Desired
from redirect.errors import InstanceInUse, WouldNotLast
from redirect.findings import Finding, Part
from redirect.lifetime import Mounts
from redirect.pins import BPFFS, is_bpffs
from redirect.reconcile import Redirection

pytestmark = pytest.mark.kernel

NOBODY = Desired((), frozenset())
CLONE_NEWNS, MS_MOVE, MS_REC, MS_SLAVE = 0x20000, 0x2000, 0x4000, 0x80000


def mount_bpffs() -> None:
    netns.call("mount", b"bpf", bytes(BPFFS), b"bpf", 0, None)


def hide_machines_bpffs() -> None:
    """As on a node without /sys/fs/bpf, also where this machine has it."""
    netns.call("unshare", CLONE_NEWNS)
    netns.call("mount", b"none", b"/", None, MS_REC | MS_SLAVE, None)
    if is_bpffs(BPFFS):
        netns.call("umount2", bytes(BPFFS), netns.MNT_DETACH)


@pytest.fixture
def instance() -> str:
    return f"hl{os.getpid()}"


@pytest.fixture
def elsewhere(instance: str) -> Iterator[ThreadPoolExecutor]:
    """A thread with its own mounts, in a network namespace that stands for the node."""

    def leave() -> None:
        netns.remove(f"{instance}-node")

    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(hide_machines_bpffs).result()
            node = thread.submit(netns.ensure, f"{instance}-node").result()
            inside = netns.entered(node)
            thread.submit(inside.__enter__).result()
            try:
                yield thread
            finally:
                thread.submit(inside.__exit__, None, None, None).result()
        finally:
            thread.submit(leave).result()


def lasting(instance: str, run_dir: Path) -> Redirection:
    """For whom the mounts of this thread are those of a machine on its own."""

    def look() -> Mounts:
        here = lifetime.look()
        return replace(here, init=here.own, is_whole_machine=True)

    return Redirection(instance, run_dir, look=look)


def programs(redirection: Redirection) -> list[int]:
    """How many programs run at each of the four places of the two sides."""
    conf = redirection._maps.conf()
    found = [
        sys_bpf.prog_query(ifindex, sys_bpf.BPF_TCX_INGRESS)
        for ifindex in (conf.pod_side_ifindex, conf.net_side_ifindex)
    ]
    for namespace in redirection.private_namespaces:
        with namespace.open("rb") as target:
            found.append(sys_bpf.prog_query(target.fileno(), sys_bpf.BPF_SK_LOOKUP))
    return [len(each) for each in found]


def faults(redirection: Redirection) -> list[Finding]:
    """Nobody listens here."""
    return [each for each in redirection.prove(NOBODY) if each.part is not Part.LISTENER]


def test_a_bpffs_that_appears_between_two_starts_changes_nothing(
    elsewhere: ThreadPoolExecutor, instance: str, tmp_path: Path
) -> None:
    def check() -> None:
        with closing(lasting(instance, tmp_path)) as first:
            try:
                assert first.prepare().compiled
                mount_bpffs()
                with closing(lasting(instance, tmp_path)) as second:
                    assert second.pins.root == first.pins.root
                    assert not second.prepare().compiled
                    assert programs(second) == [1, 1, 1, 1]
                    second.uninstall()
                assert not is_bpffs(tmp_path / "bpf")
                # From nothing, the one that everybody knows is used.
                with closing(lasting(instance, tmp_path)) as third:
                    assert third.pins.root == BPFFS / "ztun" / instance
            finally:
                first.uninstall()

    elsewhere.submit(check).result()


def test_an_unmounted_bpffs_detaches_nothing_and_is_replaced_by_one_of_our_own(
    elsewhere: ThreadPoolExecutor, instance: str, tmp_path: Path
) -> None:
    def check() -> None:
        mount_bpffs()
        with closing(lasting(instance, tmp_path)) as first:
            try:
                first.prepare()
                shared = first.pins.root
                netns.call("umount2", bytes(BPFFS), netns.MNT_DETACH)
                assert programs(first) == [1, 1, 1, 1]
                first.apply(NOBODY)
                assert first.pins.root == tmp_path / "bpf" != shared
                with closing(lasting(instance, tmp_path)) as second:
                    assert not second.prepare().compiled
                    first.close()
                    assert programs(second) == [1, 1, 1, 1]
                    assert faults(second) == []
                # The one of our own goes as well, and the machine's comes back.
                first.prepare()
                netns.call("umount2", bytes(first.pins.root), netns.MNT_DETACH)
                mount_bpffs()
                first.apply(NOBODY)
                assert first.pins.root == shared
                assert first.pins.is_complete
                assert faults(first) == []
            finally:
                first.uninstall()
        assert not (BPFFS / "ztun").exists()

    elsewhere.submit(check).result()


def test_pins_that_went_out_of_sight_stop_the_agent_until_they_are_back(
    elsewhere: ThreadPoolExecutor, instance: str, tmp_path: Path
) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()

    def check() -> None:
        mount_bpffs()
        with closing(lasting(instance, tmp_path)) as first:
            try:
                assert first.prepare().compiled
                netns.call("mount", bytes(BPFFS), bytes(aside), None, MS_MOVE, None)
                with (
                    closing(lasting(instance, tmp_path)) as second,
                    pytest.raises(InstanceInUse, match=r"-pod has a socket lookup whose pin is not in"),
                ):
                    second.prepare()
                assert programs(first) == [1, 1, 1, 1]
                netns.call("mount", bytes(aside), bytes(BPFFS), None, MS_MOVE, None)
                with closing(lasting(instance, tmp_path)) as third:
                    assert not third.prepare().compiled
                    assert programs(third) == [1, 1, 1, 1]
            finally:
                first.uninstall()
        assert not (BPFFS / "ztun").exists()

    elsewhere.submit(check).result()


@pytest.mark.parametrize("has_bpffs", [False, True], ids=["none", "a bpffs of that namespace"])
def test_mounts_that_end_with_the_agent_are_refused_and_nothing_is_made(
    elsewhere: ThreadPoolExecutor, instance: str, tmp_path: Path, has_bpffs: bool
) -> None:
    """`unshare -m ztun agent`: pins would go with it, and captured pods talk in clear."""

    def own() -> list[str]:
        return sorted(path.name for path in netns.RUN_DIR.iterdir() if path.name.startswith(instance))

    def check() -> None:
        if has_bpffs:
            mount_bpffs()
        before = own()
        with (
            closing(Redirection(instance, tmp_path)) as redirection,
            pytest.raises(WouldNotLast, match=r"would end with this process.* on the machine itself"),
        ):
            redirection.prepare()
        assert own() == before
        assert not (tmp_path / "bpf").exists() and not (BPFFS / "ztun").exists()

    elsewhere.submit(check).result()


def test_names_that_end_with_the_agent_are_refused(
    elsewhere: ThreadPoolExecutor, instance: str, tmp_path: Path
) -> None:
    """The pins are the machine's, /run/netns is not: the next agent would not find its namespaces."""

    def look() -> Mounts:
        here = lifetime.look()
        bpffs = [mount for mount in here.own if mount.kind == "bpf"]
        return replace(here, init=tuple(replace(mount, number=-1) for mount in bpffs))

    def check() -> None:
        mount_bpffs()
        with (
            closing(Redirection(instance, tmp_path, look=look)) as redirection,
            pytest.raises(WouldNotLast, match=rf"the name /run/netns/{instance}-pod would be seen by nobody"),
        ):
            redirection.prepare()
        assert not (BPFFS / "ztun").exists()

    elsewhere.submit(check).result()


def test_the_agent_says_so_in_one_line(instance: str, tmp_path: Path) -> None:
    command = ["unshare", "-m", sys.executable, "-m", "agent", "agent", "--node", "n", "--instance", instance]
    done = subprocess.run(
        [*command, "--run-dir", str(tmp_path / "run"), "--xds-address", "127.0.0.1:1", "--root-cert",
         str(tmp_path / "root.pem"), "--admin-address", "off", "--metrics-address", "off",
         "--readiness-address", "off"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("ztun: ")]
    assert "would end with this process" in line or "would be seen by nobody" in line
    assert "Traceback" not in done.stderr
