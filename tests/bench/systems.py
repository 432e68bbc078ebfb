"""The three systems under test, alive at the same time on one lab: ztun, Envoy, and no proxy.

ztun is the product as a user runs it, pods captured by eBPF. Envoy stands in the nodes' own namespaces and is
dialled at the node's address. Each node has one core: client pod and first proxy share core 0, second proxy and
server pod core 1. Everything made here is gone when the stage is left.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agent.lab import blueprint
from agent.lab.blueprint import LabError
from agent.lab.mesh import LabMesh
from agent.lab.netns import entered, write_sysctl
from agent.lab.topology import NodePlace, PodPlace, Topology
from tests.bench import accounting, envoy

HERE = Path(__file__).parent
MANIFESTS = HERE / "manifests"
APP_PORT = 8080
ENVOY_A_PORT, ENVOY_B_PORT = 15101, 15108
HBONE_PORT = 15008
CLIENT_ID = "spiffe://cluster.local/ns/bench/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/bench/sa/server"
CORES = {"node-a": 0, "node-b": 1}
START_TIMEOUT_S = 20.0
# Client ports of the past second may be used again, and none of them is a listening port.
SYSCTLS = {
    "net/ipv4/tcp_tw_reuse": 1,
    "net/ipv4/ip_local_port_range": "20000 65000",
}


@dataclass(frozen=True, slots=True)
class System:
    """Where its client dials from and to; the processes of each proxy, of which some are only control."""

    name: str
    client: PodPlace
    target: tuple[str, int]
    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    control: tuple[int, ...] = ()
    hbone: tuple[str, int] | None = None

    @property
    def proxies(self) -> tuple[int, ...]:
        return self.first + self.second


class Stage:
    """One lab with the three systems on it, for a `with`. `is_pinned`: each node on its own core."""

    def __init__(self, name: str, tell: Callable[[str], None], *, is_pinned: bool) -> None:
        self._tell = tell
        self._is_pinned = is_pinned
        self.topology = Topology(name)
        self.mesh = LabMesh(self.topology, {"workers": str(envoy.CONCURRENCY)})
        self.systems: dict[str, System] = {}

    def __enter__(self) -> Stage:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._tell("removing the lab")
        # A second Ctrl-C must not leave half of it behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.mesh.down()
        finally:
            signal.signal(signal.SIGINT, before)

    def _open(self) -> None:
        self._tell("building the lab: two nodes, four pods")
        self.topology.up(blueprint.read(MANIFESTS))
        for place in (*self.topology.nodes.values(), *self.topology.pods.values()):
            with entered(place.netns):
                for name, value in SYSCTLS.items():
                    write_sysctl(name, value)
        self._tell("starting ztun, Envoy and the servers")
        self.mesh.start(MANIFESTS)
        pods = [self.pod("client"), self.pod("server")]
        for pod in pods:
            self.mesh.enroll(pod)
        self.mesh.wait_announced(*pods)
        for pod in ("server", "bare-server"):
            self._serve(self.pod(pod))
        found = (self._ztun(), self._envoy(), self._direct())
        self.systems = {system.name: system for system in found}

    def core(self, node: str) -> int:
        """The core of a node, -1 when nothing is pinned."""
        return CORES[node] if self._is_pinned else -1

    def credentials(self, identity: str) -> Path:
        """A directory with a certificate for an identity, made by the lab's authority at the first call."""
        directory = self.topology.journal.directory / "bench" / identity.rpartition("/")[2]
        if not directory.exists():
            envoy.write_credentials(directory, self.mesh.state_dir, identity)
        return directory

    def pod(self, name: str) -> PodPlace:
        return self.topology.pods[f"bench/{name}"]

    def _serve(self, pod: PodPlace) -> None:
        command = [sys.executable, "-S", "-E", str(HERE / "load.py"), "serve", str(APP_PORT)]
        self.topology.processes.start_ready(
            f"load-{pod.name}", pod.netns, [*command, str(self.core(pod.node))]
        )

    def _ztun(self) -> System:
        controls = {name: pid for name, pid, _ in self.topology.journal.processes()}
        by_node: list[tuple[int, ...]] = []
        for node in CORES:
            workers = [worker["pid"] for worker in self.mesh.status(node)["workers"]]
            by_node.append((controls[f"agent-{node}"], *workers))
            self._pin(by_node[-1], node)
        server = str(self.pod("server").address(4))
        return System(
            name="ztun",
            client=self.pod("client"),
            target=(server, APP_PORT),
            first=by_node[0],
            second=by_node[1],
            control=tuple(pids[0] for pids in by_node),
            hbone=(server, HBONE_PORT),
        )

    def _envoy(self) -> System:
        one, other = (self.topology.nodes[name] for name in CORES)
        app = str(self.pod("bare-server").address(4))
        second = self._start_envoy(
            other, envoy.TERMINATE, ENVOY_B_PORT, (app, APP_PORT), SERVER_ID, CLIENT_ID
        )
        hbone = (str(other.addresses[0]), ENVOY_B_PORT)
        first = self._start_envoy(one, envoy.ORIGINATE, ENVOY_A_PORT, hbone, CLIENT_ID, SERVER_ID)
        return System(
            name="envoy",
            client=self.pod("bare-client"),
            target=(str(one.addresses[0]), ENVOY_A_PORT),
            first=(first,),
            second=(second,),
            hbone=hbone,
        )

    def _direct(self) -> System:
        server = str(self.pod("bare-server").address(4))
        return System(name="direct", client=self.pod("bare-client"), target=(server, APP_PORT))

    def _start_envoy(
        self,
        node: NodePlace,
        template: envoy.Template,
        port: int,
        following: tuple[str, int],
        identity: str,
        peer: str,
    ) -> int:
        directory = self.credentials(identity)
        config = directory / "envoy.yaml"
        values = {"dir": directory, "peer": peer, "listen": port}
        values |= {"next_host": following[0], "next_port": following[1]}
        # The text of the template holds the placeholders of its parts as well: one pass fills them all.
        config.write_text(
            template.substitute(values, authority=f"{self.pod('bare-server').address(4)}:{APP_PORT}")
        )
        name = f"envoy-{node.name}"
        process = self.topology.processes.start(name, node.netns, envoy.command(config, port))
        end_s = time.monotonic() + START_TIMEOUT_S
        while not _listens(node, port):
            if process.poll() is not None or time.monotonic() > end_s:
                raise LabError(f"{name} does not start: {self.mesh.log(name).read_text()[-2000:]}")
            time.sleep(0.02)
        self._pin((process.pid,), node.name)
        return process.pid

    def _pin(self, pids: tuple[int, ...], node: str) -> None:
        if self._is_pinned:
            accounting.pin(pids, CORES[node])


def _listens(node: NodePlace, port: int) -> bool:
    with entered(node.netns), socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
