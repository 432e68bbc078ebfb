"""Whose connections from the node itself go to captured pods past the proxy. Pods on a bridge, plain listeners."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from redirect import netns
from redirect.host_senders import EVERYBODY, NOBODY
from tests.support.redirect_lab import PATIENCE_S, dial, plain
from tests.support.segment import PORT, Segment, segment

pytestmark = pytest.mark.kernel

ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as sock:
    sock.sendall(b"hello")
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(64) == b"hello")
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with segment("t", tmp_path_factory.mktemp("t"), is_flat=False, pods=1) as made:
        made.capture("p1")
        yield made
        made.redirection.let_host(EVERYBODY)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A control group of version 2, as systemd makes one for the kubelet."""
    netns.call("mount", b"none", os.fsencode(tmp_path), b"cgroup2", 0, None)
    made = tmp_path / f"ztun-kubelet-{os.getpid()}"
    try:
        made.mkdir()
        yield made
        made.rmdir()
    finally:
        netns.call("umount2", os.fsencode(tmp_path), netns.MNT_DETACH)


def asks(node: Segment, group: Path, address: str) -> str:
    """What a process of the group and of the node hears."""
    inside = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -ISc '{ASK}' {address} {PORT}"
    with netns.entered(node.node):
        done = subprocess.run(
            ["sh", "-c", inside], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    return done.stdout.strip()


def reaches_the_pod(node: Segment, address: str) -> bool:
    with closing(dial(node.node, address, PORT)) as sock:
        sock.sendall(b"hello")
        return sock.recv(64) == b"hello"


def reaches_the_proxy(node: Segment, address: str) -> bool:
    """With the node's address, and both ways."""
    with closing(dial(node.node, address, PORT)) as sock:
        accepted, client = node.listeners["plaintext"].accept()
        with accepted:
            sock.sendall(b"to the proxy")
            accepted.sendall(b"to the node")
            assert plain(client) == plain(sock.getsockname()) and plain(accepted.getsockname())[1] == PORT
            return accepted.recv(64) == b"to the proxy" and sock.recv(64) == b"to the node"


@pytest.mark.parametrize("version", [4, 6])
def test_everybody_nobody_or_one_group_of_the_node_gets_past_the_proxy(
    node: Segment, group: Path, version: int
) -> None:
    address = node.pods["p1"].addresses[version]
    node.redirection.let_host(EVERYBODY)
    assert reaches_the_pod(node, address)
    node.redirection.let_host(NOBODY)
    captured = node.counted("to_pod", "HOST_SYN_TO_PROXY")
    assert reaches_the_proxy(node, address)
    assert node.counted("to_pod", "HOST_SYN_TO_PROXY") == captured + 1
    node.redirection.let_host(group.stat().st_ino)
    assert asks(node, group, address) == "True"
    assert reaches_the_proxy(node, address)
    assert node.counted("to_pod", "HOST_SYN_TO_PROXY") == captured + 2


def test_what_was_open_before_goes_on(node: Segment) -> None:
    node.redirection.let_host(EVERYBODY)
    with closing(dial(node.node, node.pods["p1"].addresses[4], PORT)) as sock:
        node.redirection.let_host(NOBODY)
        sock.sendall(b"hello")
        assert sock.recv(64) == b"hello"


def test_without_a_proxy_who_may_not_pass_waits(node: Segment) -> None:
    node.redirection.let_host(NOBODY)
    node.redirection.clear_listeners("plaintext")
    try:
        with pytest.raises(TimeoutError):
            dial(node.node, node.pods["p1"].addresses[4], PORT, 0.4)
    finally:
        fds = {name: sock.fileno() for name, sock in node.listeners.items()}
        node.redirection.set_listeners(fds)
