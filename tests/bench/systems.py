"""The systems under test, alive at the same time: ztun, Envoy, and no proxy, and perhaps an earlier ztun.

ztun is the product as a user runs it, pods captured by eBPF. Envoy stands behind the same capture, for a pair of
pods of its own. Another commit of ztun has a lab of its own, made alike. Each node has one core: client pod and
first proxy share core 0, second proxy and server pod core 1. Everything made here is gone when the stage is left.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from agent.lab import blueprint
from agent.lab.agents import LabMesh
from agent.lab.blueprint import LabError
from agent.lab.topology import PodPlace, Topology
from agent.lab.wiring import write_sysctl
from agent.model.listener import HBONE, OUTBOUND
from redirect.netns import entered
from tests.bench import accounting, envoy
from tests.bench.capture import Capture

HERE = Path(__file__).parent
MANIFESTS = HERE / "manifests"
APP_PORT = 8080
CLIENT_ID = "spiffe://cluster.local/ns/bench/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/bench/sa/server"
GATEWAY_ID = "spiffe://cluster.local/ns/bench/sa/gateway"
CORES = {"node-a": 0, "node-b": 1}
START_TIMEOUT_S = 20.0
BEFORE = "before"
"""The name of the system that is an earlier ztun."""
HONEST = "honest"
"""And of the one with --honest-connect=all, which differs in these kinds of workloads only."""
NEW_CONNECTIONS = frozenset({"connect", "refused"})
# Client ports of the past second may be used again, and none of them is a listening port.
SYSCTLS = {
    "net/ipv4/tcp_tw_reuse": 1,
    "net/ipv4/ip_local_port_range": "20000 65000",
}


@dataclass(frozen=True, slots=True)
class Role:
    """What an Envoy is in the pair: its configuration, where it listens and dials, who it is and whom it expects."""

    template: envoy.Template
    port: int
    next_port: int
    identity: str
    peer: str
    next_pod: str = "envoy-server"


FIRST = Role(envoy.ORIGINATE, OUTBOUND.port, HBONE.port, CLIENT_ID, SERVER_ID)
SECOND = Role(envoy.TERMINATE, HBONE.port, APP_PORT, SERVER_ID, CLIENT_ID)


@dataclass(frozen=True, slots=True)
class Hbone:
    """Where handshakes go, from which pod outside the mesh, and the directory of the client's certificate."""

    target: tuple[str, int]
    client: PodPlace
    credentials: Path


@dataclass(frozen=True, slots=True)
class System:
    """Where its client dials from and to; the processes of each proxy, of which some are only control."""

    name: str
    client: PodPlace
    target: tuple[str, int]
    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    control: tuple[int, ...] = ()
    hbone: Hbone | None = None
    only: frozenset[str] = frozenset()
    """Kinds of workloads, where not all of them are worth its time."""
    without: frozenset[str] = frozenset()
    """Kinds that mean nothing with it."""

    def takes(self, kind: str) -> bool:
        """Whether it is measured by workloads of this kind."""
        if kind in self.without or (kind == "handshake" and self.hbone is None):
            return False
        return not self.only or kind in self.only

    @property
    def proxies(self) -> tuple[int, ...]:
        return self.first + self.second

    @property
    def workers(self) -> tuple[tuple[int, ...], ...]:
        """Those of each node, where they are processes and more than one."""
        ends = (tuple(pid for pid in pids if pid not in self.control) for pids in (self.first, self.second))
        return tuple(end for end in ends if len(end) > 1)


def pod_of(mesh: LabMesh, name: str) -> PodPlace:
    return mesh.topology.pods[f"bench/{name}"]


def credentials(mesh: LabMesh, identity: str) -> Path:
    """A directory with a certificate for an identity, made by the lab's authority at the first call."""
    directory = mesh.topology.journal.directory / "bench" / identity.rpartition("/")[2]
    if not directory.exists():
        envoy.write_credentials(directory, mesh.state_dir, identity)
    return directory


def hbone_of(mesh: LabMesh, server: str) -> Hbone:
    # From a pod outside the mesh: what an enrolled one sends to this port is captured and refused.
    return Hbone((server, HBONE.port), pod_of(mesh, "bare-client"), credentials(mesh, CLIENT_ID))


class Stage:
    """The systems of a run, for a `with`. `is_pinned`: each node on its own core; `before`: an earlier `ztun`."""

    manifests = MANIFESTS

    def __init__(
        self,
        name: str,
        tell: Callable[[str], None],
        *,
        is_pinned: bool,
        before: tuple[str, ...] | None = None,
        with_honest: bool = False,
        workers: int = envoy.CONCURRENCY,
    ) -> None:
        self._tell = tell
        self._is_pinned = is_pinned
        flags = {"workers": str(workers)}
        self.mesh = LabMesh(Topology(name), flags)
        self.topology = self.mesh.topology
        self._before = LabMesh(Topology(f"{name}0"), flags, before) if before else None
        honest = flags | {"honest-connect": "all"}
        self._honest = LabMesh(Topology(f"{name}1"), honest) if with_honest else None
        self._meshes = [mesh for mesh in (self.mesh, self._before, self._honest) if mesh is not None]
        self.systems: dict[str, System] = {}
        self._captures: list[Capture] = []

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
        with ExitStack() as stack:
            # Last in, first out, each whatever became of the others.
            stack.callback(signal.signal, signal.SIGINT, before)
            for mesh in self._meshes:
                stack.callback(mesh.down)
            for capture in self._captures:
                stack.callback(capture.remove)
            for mesh in self._meshes:
                stack.callback(mesh.topology.end_processes)

    def _open(self) -> None:
        times = ("", ", twice", ", three times")[len(self._meshes) - 1]
        self._tell(f"building the lab: two nodes, six pods{times}")
        for mesh in self._meshes:
            self._open_mesh(mesh)
        self._tell("starting Envoy and the servers")
        for name in ("envoy-server", "bare-server"):
            self._serve(self.mesh, name)
        found = [self._ztun("ztun", self.mesh), self._envoy(), self._direct()]
        if self._before:
            found.insert(1, self._ztun(BEFORE, self._before))
        if self._honest:
            found.insert(1, replace(self._ztun(HONEST, self._honest), hbone=None, only=NEW_CONNECTIONS))
        self.systems = {system.name: system for system in found}

    def _open_mesh(self, mesh: LabMesh) -> None:
        topology = mesh.topology
        topology.up(blueprint.read(self.manifests))
        for place in (*topology.nodes.values(), *topology.pods.values()):
            with entered(place.netns):
                for name, value in SYSCTLS.items():
                    write_sysctl(name, value)
        names = {id(self._before): "the earlier ztun", id(self._honest): "ztun with honest connects"}
        self._tell(f"starting {names.get(id(mesh), 'ztun')}")
        mesh.start(self.manifests)
        pods = [pod_of(mesh, "client"), pod_of(mesh, "server")]
        for pod in pods:
            mesh.enroll(pod)
        mesh.wait_announced(*pods)
        self._serve(mesh, "server")

    @property
    def topologies(self) -> list[Topology]:
        """That of this tree and, where there is one, of the earlier ztun."""
        return [mesh.topology for mesh in self._meshes]

    def topology_of(self, system: System) -> Topology:
        return next(each for each in self.topologies if system.client in each.pods.values())

    def check_captured(self) -> None:
        """After some workload. Raises LabError if it went past an Envoy: that would have measured no proxy."""
        for capture in self._captures:
            if not capture.taken():
                raise LabError(f"instance {capture.instance} has captured no connection for Envoy")

    def core(self, node: str) -> int:
        """The core of a node, -1 when nothing is pinned."""
        return CORES[node] if self._is_pinned else -1

    def pod(self, name: str) -> PodPlace:
        return pod_of(self.mesh, name)

    def _serve(self, mesh: LabMesh, name: str) -> None:
        pod = pod_of(mesh, name)
        command = [sys.executable, "-S", "-E", str(HERE / "load.py"), "serve", str(APP_PORT)]
        mesh.topology.processes.start_ready(f"load-{name}", pod.netns, [*command, str(self.core(pod.node))])

    def _ztun(self, name: str, mesh: LabMesh) -> System:
        pair = self._pair(name, mesh)
        return replace(pair, hbone=hbone_of(mesh, pair.target[0]))

    def _pair(self, name: str, mesh: LabMesh) -> System:
        """`client` and `server` by their agents, without handshakes of their own."""
        controls = {process: pid for process, pid, _ in mesh.topology.journal.processes()}
        by_node: list[tuple[int, ...]] = []
        for node in CORES:
            workers = [worker["pid"] for worker in mesh.status(node)["workers"]]
            by_node.append((controls[f"agent-{node}"], *workers))
            self._pin(by_node[-1], node)
        server = str(pod_of(mesh, "server").address(4))
        return System(
            name=name,
            client=pod_of(mesh, "client"),
            target=(server, APP_PORT),
            first=by_node[0],
            second=by_node[1],
            control=tuple(pids[0] for pids in by_node),
        )

    def _envoy(self) -> System:
        server = str(self.pod("envoy-server").address(4))
        second = self._start_envoy(self.pod("envoy-server"), SECOND)
        first = self._start_envoy(self.pod("envoy-client"), FIRST)
        return System(
            name="envoy",
            client=self.pod("envoy-client"),
            target=(server, APP_PORT),
            first=(first,),
            second=(second,),
            hbone=hbone_of(self.mesh, server),
            # Its destination is fixed, whatever port is dialled.
            without=frozenset({"refused"}),
        )

    def _direct(self) -> System:
        server = str(self.pod("bare-server").address(4))
        return System(name="direct", client=self.pod("bare-client"), target=(server, APP_PORT))

    def _start_envoy(self, pod: PodPlace, role: Role) -> int:
        """An Envoy that has captured a pod; its process."""
        capture = self._capture(pod.node)
        listen, dial = capture.pod_side, capture.net_side
        if role is SECOND:
            listen, dial = dial, listen
        config = self._envoy_config(role, listen_netns=listen)
        name = f"envoy-{pod.node}"
        # It runs where it dials, to be spared the change of namespace at every dial.
        process = self.topology.processes.start(name, dial, envoy.command(config, role.port))
        end_s = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < end_s:
            if capture.begin(pod, process.pid, role.port, envoy.CONCURRENCY):
                self._pin((process.pid,), pod.node)
                return process.pid
            time.sleep(0.02)
        raise LabError(f"{name} does not start: {self.mesh.log(name).read_text()[-2000:]}")

    def _envoy_config(self, role: Role, **values: object) -> Path:
        server, here = self.pod("envoy-server").address(4), self.pod(role.next_pod).address(4)
        directory = credentials(self.mesh, role.identity)
        config = directory / f"envoy-{role.port}.yaml"
        values |= {
            "dir": directory,
            "peer": role.peer,
            "listen": role.port,
            "authority": f"{server}:{APP_PORT}",
        }
        values |= {"next_host": here, "next_port": role.next_port, "gateway": GATEWAY_ID}
        # The text of the template holds the placeholders of its parts as well: one pass fills them all.
        config.write_text(role.template.substitute(values, source=self.pod("envoy-client").address(4)))
        return config

    def _capture(self, node: str) -> Capture:
        """A second instance of ztun's kernel side on a node, beside that of the agent."""
        instance = f"{self.topology.name}-{node.replace('node-', 'envoy-')}"
        run_dir = self.topology.journal.directory / "bench" / instance
        capture = Capture(self.topology.nodes[node], instance, run_dir)
        self._captures.append(capture)
        for path in (capture.pod_side, capture.net_side):
            self.topology.journal.note_namespace(path.name)  # `ztun lab down` after a crash
        capture.prepare()
        return capture

    def _pin(self, pids: tuple[int, ...], node: str) -> None:
        if self._is_pinned:
            accounting.pin(pids, CORES[node])
