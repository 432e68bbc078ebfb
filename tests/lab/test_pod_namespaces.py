"""A pod's namespace by its uid: real namespaces with real addresses, behind a /proc that the test writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from agent.enroll.pod_namespaces import PodNamespaces
from agent.enroll.wish import PodInstance
from redirect import locate, netns
from redirect.errors import PodNotFound

pytestmark = pytest.mark.kernel
ONE, TWO = "11111111-0000-0000-0000-000000000001", "22222222-0000-0000-0000-000000000002"


class Node:
    """Namespaces `a`, `b`, … with addresses, and processes in them."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.made: list[str] = []

    def namespace(self, name: str, *addresses: str) -> Path:
        full = f"pn{os.getpid()}{name}"
        path = netns.create(full)
        self.made.append(full)
        with netns.entered(path), IPRoute() as ip:
            for address in addresses:
                ip.addr("add", index=1, address=address, prefixlen=32)
        return path

    def process(self, pid: int, uid: str, namespace: Path | str, started: int = 100, below: str = "") -> None:
        directory = self.proc / str(pid)
        (directory / "ns").mkdir(parents=True)
        (directory / "cgroup").write_text(
            f"0::/kubepods/burstable/pod{uid}/c0ffee{below}\n" if uid else "0::/\n"
        )
        fields = ["S", *["0"] * 18, str(started), *["0"] * 10]
        (directory / "stat").write_text(f"{pid} (a ) name) {' '.join(fields)}")
        (directory / "ns" / "net").symlink_to(namespace)

    def look(self, uid: str, *addresses: str, taken: tuple[int, ...] = ()) -> int:
        """The inode of the pod's namespace."""
        pods = PodNamespaces(taken, self.proc)
        with pods.held(PodInstance(uid, tuple(map(ip_address, addresses)))) as path:
            return netns.inode(path)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "proc")
    made.proc.mkdir()
    yield made
    for name in made.made:
        netns.remove(name)


def test_the_namespace_of_its_processes_with_one_of_its_addresses(node: Node) -> None:
    here, there = node.namespace("a", "10.0.0.1", "fd00::1"), node.namespace("b", "10.0.0.2")
    node.process(10, ONE, here)
    node.process(11, TWO, there)
    assert node.look(ONE, "10.0.0.1") == node.look(ONE, "10.9.9.9", "fd00::1") == netns.inode(here)
    assert node.look(TWO, "10.0.0.2") == netns.inode(there)


def test_a_foreign_process_in_another_pods_namespace_does_not_make_it_its_own(node: Node) -> None:
    here = node.namespace("a", "10.0.0.1")
    node.process(10, TWO, here)
    with pytest.raises(PodNotFound, match=r"has 10\.0\.0\.1, not one of its own: 10\.0\.0\.2"):
        node.look(TWO, "10.0.0.2")


def test_the_oldest_process_is_the_sandboxs_whatever_its_pid(node: Node) -> None:
    sandbox, own = node.namespace("a", "10.0.0.1"), node.namespace("b", "10.0.0.1")
    node.process(10, ONE, own, started=200)
    node.process(99, ONE, sandbox, started=100)
    assert node.look(ONE, "10.0.0.1") == netns.inode(sandbox)


def test_the_next_one_is_asked_where_the_oldest_is_elsewhere(node: Node) -> None:
    other, sandbox = node.namespace("a", "10.0.0.7"), node.namespace("b", "10.0.0.1")
    node.process(10, ONE, other, started=50)
    node.process(11, ONE, sandbox, started=100)
    assert node.look(ONE, "10.0.0.1") == netns.inode(sandbox)


def test_the_nodes_own_namespace_is_no_pods(node: Node) -> None:
    node.process(10, ONE, Path(f"/proc/{os.getpid()}/ns/net"))
    node.process(11, TWO, node.namespace("b", "10.0.0.2"))
    with pytest.raises(PodNotFound, match="is not found on this node"):
        node.look(ONE, "127.0.0.1")


def test_two_pods_never_share_a_namespace(node: Node) -> None:
    here = node.namespace("a", "10.0.0.1")
    node.process(10, ONE, here)
    node.process(11, TWO, here)
    pods = PodNamespaces((), node.proc)
    address = (ip_address("10.0.0.1"),)
    with (
        pods.held(PodInstance(ONE, address)),
        pytest.raises(PodNotFound, match="that of another pod"),
        pods.held(PodInstance(TWO, address)),
    ):
        pass
    with pytest.raises(PodNotFound, match="that of another pod"):
        node.look(ONE, "10.0.0.1", taken=(netns.inode(here),))


@pytest.mark.parametrize("reuse", [None, TWO, ""], ids=["gone", "another-pods", "no-pods"])
def test_a_process_that_leaves_between_look_and_open_is_replaced(
    node: Node, monkeypatch: pytest.MonkeyPatch, reuse: str | None
) -> None:
    here, there = node.namespace("a", "10.0.0.1"), node.namespace("b", "10.0.0.1")
    node.process(10, ONE, here, started=50)
    node.process(11, ONE, here, started=60)
    opened: Callable[[Path], Any] = locate.held

    def leaving(path: Path) -> Any:
        if path.parts[-3] == "10" and (node.proc / "10" / "stat").exists():
            shutil.rmtree(node.proc / "10")
            if reuse is not None:
                node.process(10, reuse, there, started=70)
        return opened(path)

    monkeypatch.setattr("agent.enroll.pod_namespaces.locate.held", leaving)
    assert node.look(ONE, "10.0.0.1") == netns.inode(here)


def test_without_any_pods_process_the_remedy_is_the_hosts_pid_namespace(node: Node) -> None:
    node.process(1, "", Path(f"/proc/{os.getpid()}/ns/net"))
    with pytest.raises(PodNotFound, match="hostPID"):
        node.look(ONE, "10.0.0.1")


def test_what_is_no_uid_is_said(node: Node) -> None:
    with pytest.raises(PodNotFound, match="'web' is no uid of a pod"):
        node.look("web", "10.0.0.1")


def test_a_named_namespace_that_a_pods_process_is_in_is_not_taken_for_one_without(node: Node) -> None:
    here = node.namespace("a", "10.0.0.1")
    node.process(10, TWO, here)
    with pytest.raises(PodNotFound, match="is not found on this node: no process"):
        node.look(ONE, "10.0.0.1")
