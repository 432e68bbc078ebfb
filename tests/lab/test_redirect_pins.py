"""Where the pins lie: one set of programs, whatever happens to /sys/fs/bpf between two starts of the agent.

Each test has mounts of its own, by a thread with a mount namespace of its own: those of the machine are untouched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from redirect import netns, sys_bpf
from redirect.desired import Desired
from redirect.errors import InstanceInUse
from redirect.findings import Finding, Part
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
        with closing(Redirection(instance, tmp_path)) as first:
            try:
                assert first.prepare().compiled
                mount_bpffs()
                with closing(Redirection(instance, tmp_path)) as second:
                    assert second.pins.root == first.pins.root
                    assert not second.prepare().compiled
                    assert programs(second) == [1, 1, 1, 1]
                    second.uninstall()
                assert not is_bpffs(tmp_path / "bpf")
                # From nothing, the one that everybody knows is used.
                with closing(Redirection(instance, tmp_path)) as third:
                    assert third.pins.root == BPFFS / "ztun" / instance
            finally:
                first.uninstall()

    elsewhere.submit(check).result()


def test_an_unmounted_bpffs_detaches_nothing_and_is_replaced_by_one_of_our_own(
    elsewhere: ThreadPoolExecutor, instance: str, tmp_path: Path
) -> None:
    def check() -> None:
        mount_bpffs()
        with closing(Redirection(instance, tmp_path)) as first:
            try:
                first.prepare()
                shared = first.pins.root
                netns.call("umount2", bytes(BPFFS), netns.MNT_DETACH)
                assert programs(first) == [1, 1, 1, 1]
                first.apply(NOBODY)
                assert first.pins.root == tmp_path / "bpf" != shared
                with closing(Redirection(instance, tmp_path)) as second:
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
        with closing(Redirection(instance, tmp_path)) as first:
            try:
                assert first.prepare().compiled
                netns.call("mount", bytes(BPFFS), bytes(aside), None, MS_MOVE, None)
                with (
                    closing(Redirection(instance, tmp_path)) as second,
                    pytest.raises(InstanceInUse, match=r"-pod has a socket lookup whose pin is not in"),
                ):
                    second.prepare()
                assert programs(first) == [1, 1, 1, 1]
                netns.call("mount", bytes(aside), bytes(BPFFS), None, MS_MOVE, None)
                with closing(Redirection(instance, tmp_path)) as third:
                    assert not third.prepare().compiled
                    assert programs(third) == [1, 1, 1, 1]
            finally:
                first.uninstall()
        assert not (BPFFS / "ztun").exists()

    elsewhere.submit(check).result()
