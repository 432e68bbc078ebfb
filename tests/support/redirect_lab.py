"""A lab node with the kernel side on it, and a stand-in for the proxy: plain listeners on both sides."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.lab.blueprint import generate, parse
from agent.lab.topology import NodePlace, PodPlace, Topology
from agent.model.listener import LISTENERS, Side
from redirect import host_addresses, netns
from redirect.desired import Desired
from redirect.findings import Finding
from redirect.locate import locate
from redirect.reconcile import Redirection

IPV6_TRANSPARENT = 75
PATIENCE_S = 30.0
# Long enough for a SYN to arrive if it is going to, shorter than its first repetition.
SILENCE_S = 0.4
ECHO_PORT = 8080


@contextmanager
def echoing_lab(prefix: str, run_dir: Path) -> Iterator[Topology]:
    """Two nodes with two pods each, in which something echoes on ECHO_PORT. The name is this process's own."""
    topology = Topology(f"{prefix}{os.getpid()}", run_dir)
    try:
        topology.up(parse(generate(2)))
        for pod in topology.pods.values():
            echo = [sys.executable, "-m", "agent.lab.probes", "echo", "--port", str(ECHO_PORT)]
            topology.processes.start_ready(pod.name, pod.netns, echo)
        yield topology
    finally:
        topology.down()


def listener(namespace: Path, port: int) -> socket.socket:
    """A transparent listener of both families in a private namespace."""
    with netns.entered(namespace):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(PATIENCE_S)
        sock.bind(("::", port))
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    return sock


def dial(namespace: Path, address: object, port: int, timeout_s: float = PATIENCE_S) -> socket.socket:
    """A connection from a namespace. Raises OSError; TimeoutError when nobody answers."""
    with netns.entered(namespace):
        return socket.create_connection((str(address), port), timeout_s)


def plain(name: tuple[object, ...]) -> tuple[str, int]:
    """(address, port) of a socket name, IPv4 without its prefix."""
    return str(name[0]).removeprefix("::ffff:"), int(str(name[1]))


@dataclass
class Node:
    """One node of the lab with an instance of its own. `listeners`: one for each row of the table, in its order."""

    lab: Topology
    place: NodePlace
    redirection: Redirection
    has_tcx: bool | None = None
    listeners: list[socket.socket] = field(default_factory=list)

    def pod(self, name: str) -> PodPlace:
        return self.lab.pods[f"lab/{name}"]

    def desired(self, *names: str) -> Desired:
        """What `apply` is given to capture these pods; call it inside the node."""
        places = [locate(netns=self.pod(name).netns) for name in names]
        assert not [place.refusal for place in places if place.refusal]
        return Desired(
            tuple(place.desired() for place in places),
            host_addresses.local(),
        )

    def capture(self, *names: str, keep_for_s: float = 0.0) -> list[str]:
        """Captures these pods and no others; what they have open goes on for `keep_for_s`."""
        with netns.entered(self.place.netns):
            wanted = self.desired(*names)
            kept = dict.fromkeys((pod.ifindex for pod in wanted.pods), keep_for_s) if keep_for_s else {}
            return self.redirection.apply(wanted, keep_existing=kept)

    def prove(self, *names: str) -> tuple[Finding, ...]:
        with netns.entered(self.place.netns):
            return self.redirection.prove(self.desired(*names))

    def successor(self) -> Redirection:
        """What the next process works with: it knows nothing but what is in the kernel."""
        return Redirection(self.redirection.instance, self.redirection.pins.run_dir, has_tcx=self.has_tcx)

    def listen(self) -> None:
        """Listeners in all three slots, in place of those that are there."""
        self.deafen()
        namespaces = dict(zip(Side, self.redirection.private_namespaces, strict=True))
        for row in LISTENERS:
            self.listeners.append(listener(namespaces[row.side], row.port))
        self.redirection.set_listeners(self.fds)

    @property
    def fds(self) -> dict[str, int]:
        """The listeners as `set_listeners` takes them."""
        return {row.name: sock.fileno() for row, sock in zip(LISTENERS, self.listeners, strict=True)}

    def deafen(self) -> None:
        while self.listeners:
            self.listeners.pop().close()


@contextmanager
def redirected(
    lab: Topology, node: str, run_dir: Path, *, instance: str, has_tcx: bool | None = None
) -> Iterator[Node]:
    """A node with everything of `prepare`; removed again whatever happens."""
    place = lab.nodes[node]
    redirection = Redirection(instance, run_dir, has_tcx=has_tcx)
    made = Node(lab, place, redirection, has_tcx)
    try:
        with netns.entered(place.netns):
            redirection.prepare()
        made.listen()
        yield made
    finally:
        made.deafen()
        redirection.close()
        with netns.entered(place.netns):
            redirection.uninstall()


def instance_name(letter: str) -> str:
    """Of this process alone, so that two runs of the tests do not meet."""
    return f"hg{os.getpid()}{letter}"


def remove_pins(root: Path) -> None:
    """Everything of an instance that is pinned, as `rm -r` would; the root of a bpffs has files of the kernel's own."""
    for path in root.iterdir():
        if path.is_dir():
            # An agent that lives pins again while this goes on.
            shutil.rmtree(path, ignore_errors=True)
