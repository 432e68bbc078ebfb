"""The kubelet's control group is found by its process, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.enroll.kubelet_group import KubeletGroup, NoKubeletGroup

PATH = "/system.slice/kubelet.service"


class Node:
    """A /proc and a file system of init, as directories."""

    def __init__(self, at: Path) -> None:
        self.proc, self.root = at / "proc", at / "root"
        self.proc.mkdir()
        self.root.mkdir()

    def process(self, pid: int, name: str, cgroup: str) -> None:
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "comm").write_text(f"{name}\n")
        (self.proc / str(pid) / "cgroup").write_text(cgroup)

    def group(self, *pids: int, path: str = PATH, hierarchy: str = "sys/fs/cgroup") -> int:
        directory = self.root / hierarchy / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return directory.stat().st_ino


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.process(1, "systemd", "0::/init.scope\n")
    return made


@pytest.mark.parametrize("hierarchy", ["sys/fs/cgroup", "sys/fs/cgroup/unified"])
@pytest.mark.parametrize("up", ["", "/..", "/../../.."])
def test_its_number_is_that_of_the_directory_where_init_sees_it(node: Node, hierarchy: str, up: str) -> None:
    """From wherever the reader's own control group namespace begins, beside version 1 or without it."""
    node.process(7, "kubelet", f"5:memory:/elsewhere\n0::{up}{PATH}\n")
    number = node.group(6, 7, hierarchy=hierarchy)
    group = KubeletGroup(node.proc, node.root)
    assert (group.find(), group.path) == (number, PATH)


def test_where_inits_files_cannot_be_reached_the_kubelets_will_do(node: Node) -> None:
    node.process(7, "kubelet", f"0::{PATH}\n")
    number = node.group(7)
    (node.proc / "7" / "root").symlink_to(node.root)
    assert KubeletGroup(node.proc, node.root / "nowhere").find() == number


def test_a_kubelet_that_starts_anew_is_found_in_its_new_group(node: Node) -> None:
    node.process(7, "kubelet", f"0::{PATH}\n")
    node.group(7)
    group = KubeletGroup(node.proc, node.root)
    group.find()
    (node.proc / "7" / "comm").write_text("another\n")
    with pytest.raises(NoKubeletGroup, match="no process of the name `kubelet`"):
        group.find()
    assert group.path == ""
    node.process(9, "kubelet", "0::/system.slice/new.service\n")
    number = node.group(9, path="/system.slice/new.service")
    assert group.find() == number


@pytest.mark.parametrize("cgroup", ["0::/\n", "5:memory:/kubelet\n", "0::/../..\n"])
def test_one_without_a_group_of_its_own_is_refused(node: Node, cgroup: str) -> None:
    """Everybody of the node would pass."""
    node.process(7, "kubelet", cgroup)
    with pytest.raises(NoKubeletGroup, match=r"process 7\) has no control group of version 2 of its own"):
        KubeletGroup(node.proc, node.root).find()


def test_a_group_that_merely_has_its_path_is_not_taken_for_it(node: Node) -> None:
    node.process(7, "kubelet", f"0::/..{PATH}\n")
    node.group(8)
    with pytest.raises(NoKubeletGroup, match=f"group {PATH} of the kubelet .* is not below"):
        KubeletGroup(node.proc, node.root).find()
