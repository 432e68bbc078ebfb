"""A whole mesh for tests: a lab of two nodes with control plane and agents, applications, and ways to look at it.

Everything is real and runs as a user runs it. `running` removes all of it again. Clients are sockets of the test
itself, made inside a pod's namespace; applications are threads here, unless a test wants processes.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from agent.cli.pinned import open_pinned
from agent.lab import blueprint
from agent.lab.agents import ZTUN, LabMesh
from agent.lab.topology import NodePlace, PodPlace, Topology
from redirect import sys_bpf
from redirect.maps import Maps
from redirect.netns import entered
from redirect.pins import Pins
from tests.support.labtraffic import PATIENCE_S, Application, LogReader, Talk, until, wait_gone

PROBES = (sys.executable, "-m", "agent.lab.probes")
SILENCE_S = 0.5
"""How long nothing must happen before it counts as not happening."""
PORT, BANNER_PORT, BULK_PORT = 8080, 2525, 9090
VIP4, VIP6 = "10.96.77.10", "fd77:96::10"
OWN_VIP = "10.96.77.11"
"""A Service whose only endpoint is server-a."""
HOST_VIP = "10.96.77.99"
"""A Service that only nftables of the nodes know: the mesh has never heard of it. server-a is its endpoint."""
NODE_PORT = 30080

POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: demo, labels: {{app: {account}, pod: {name}}}}}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  containers: [{{name: main, ports: [{{name: http, containerPort: 8080}}]}}]
status: {{podIPs: [{{ip: 10.77.{side}.{low}}}, {{ip: "fd77:{side}::{low}"}}]}}
"""
SERVICE = """\
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: demo}}
spec:
  selector: {{{selector}}}
  clusterIPs: [{vips}]
  ports: [{{name: http, port: 80, targetPort: {target}{node_port}}}]
"""
NAMES = (("client", 11), ("server", 12), ("outsider", 13), ("spare", 14))
"""Pods NAME-a and NAME-b with account NAME and the last part of their addresses; the last two stay un-enrolled."""
ENROLLED = ("client-a", "server-a", "client-b", "server-b")


def pod_manifests() -> str:
    """The namespace and the pods of both nodes."""
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n"
    for side, node in ((1, "a"), (2, "b")):
        for account, low in NAMES:
            text += POD.format(
                name=f"{account}-{node}", account=account, node=f"node-{node}", side=side, low=low
            )
    return text


def service_manifest(
    name: str, selector: str, *vips: str, target: int | str = "http", node_port: int | None = None
) -> str:
    """A Service with port 80; its VIPs are quoted for YAML here."""
    return SERVICE.format(
        name=name,
        selector=selector,
        vips=", ".join(f'"{vip}"' for vip in vips),
        target=target,
        node_port=f", nodePort: {node_port}" if node_port else "",
    )


def policy_manifest(name: str, rules: str, *, action: str = "ALLOW", selector: str = "app: server") -> str:
    """An AuthorizationPolicy in namespace demo; `rules` is YAML in flow style."""
    return f"""\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: demo}}
spec: {{selector: {{matchLabels: {{{selector}}}}}, action: {action}, rules: {rules}}}
"""


def principal(*accounts: str) -> str:
    """A rule for service accounts of namespace demo."""
    names = ", ".join(f'"cluster.local/ns/demo/sa/{account}"' for account in accounts)
    return f"[{{from: [{{source: {{principals: [{names}]}}}}]}}]"


@dataclass
class World:
    """A running mesh and its applications, with short names for what tests do."""

    lab: Topology
    mesh: LabMesh
    applications: dict[tuple[str, int], Application] = field(default_factory=dict)

    # -- places

    def pod(self, name: str) -> PodPlace:
        return self.lab.pods[f"demo/{name}"]

    def node(self, name: str) -> NodePlace:
        return self.lab.nodes[name]

    def address(self, pod: str, version: int = 4) -> str:
        return str(self.pod(pod).address(version))

    def place(self, name: str) -> PodPlace | NodePlace:
        return self.lab.nodes.get(name) or self.pod(name)

    def application(self, pod: str, port: int = PORT) -> Application:
        return self.applications[pod, port]

    def serve(self, pod: str, kind: str = "marker", port: int = PORT) -> Application:
        app = self.applications[pod, port] = Application(self.pod(pod).netns, kind, port)
        return app

    # -- traffic

    def dial(self, client: str, host: str, port: int = PORT, timeout_s: float = PATIENCE_S) -> socket.socket:
        """A connection from a pod's or a node's namespace."""
        with entered(self.place(client).netns):
            return socket.create_connection((host, port), timeout_s)

    def talk(self, client: str, host: str, port: int = PORT) -> Talk:
        return Talk(self.dial(client, host, port))

    def ask(self, client: str, host: str, port: int = PORT, timeout_s: float = PATIENCE_S) -> str:
        """One request; the client address that the server saw, without its port."""
        with Talk(self.dial(client, host, port, timeout_s)) as talk:
            return talk.say()["client"].rpartition(":")[0].strip("[]")

    def is_served(self, client: str, host: str, port: int = PORT) -> bool:
        try:
            self.ask(client, host, port)
        except OSError:
            return False
        return True

    def probe(self, client: str, kind: str, host: str, port: int, *flags: str) -> subprocess.Popen[str]:
        """A client of agent.lab.probes as a process of its own."""
        argv = [*PROBES, kind, host, str(port), *flags]
        with entered(self.place(client).netns):
            return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    # -- what the mesh says

    def log(self, node: str) -> LogReader:
        return LogReader(self.mesh.log(f"agent-{node}"))

    def status(self, node: str = "node-a") -> dict[str, Any]:
        return self.mesh.status(node)

    def workers(self, node: str) -> dict[int, int]:
        """slot -> pid"""
        return {row["slot"]: row["pid"] for row in self.status(node)["workers"]}

    def tunnels(self, node: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self.mesh.ask(node, "GET", "/tunnels")
        return answer

    def counters(self, node: str) -> dict[tuple[str, str], int]:
        """(program, reason) -> packets, from the pinned map itself."""
        with open_pinned(self.mesh.instance(node), self.mesh.run_dir(node)) as maps:
            return {
                (str(key["program"]), str(key["reason"])): int(str(value["packets"]))
                for key, value in maps["stats"].entries()
            }

    def proven_anew(self, node: str) -> None:
        """Return when a round of proofs has begun and ended."""
        for _ in range(2):  # the first may be under way
            ages: list[float] = []
            until(lambda ages=ages: self._age_falls(node, ages), "a round of proofs")

    def _age_falls(self, node: str, ages: list[float]) -> bool:
        ages.append(self.status(node)["proof"]["age_s"])
        return ages[-1] < max(ages)

    @contextmanager
    def without_rings(self, node: str) -> Iterator[None]:
        """The programs of a node find no room for held SYNs meanwhile."""
        with Maps(Pins(self.mesh.instance(node), self.mesh.run_dir(node)).generation) as maps:
            fd = maps.fds["rings"]
            rings = {owner: sys_bpf.map_by_id(number) for owner, number in maps.rings().items()}
            try:
                for owner in rings:
                    sys_bpf.map_delete(fd, struct.pack("=I", owner))
                yield
            finally:
                for owner, ring in rings.items():
                    sys_bpf.map_update(fd, struct.pack("=I", owner), struct.pack("=I", ring))
                    os.close(ring)

    def http(
        self, node: str, port: int, path: str, *, accept: str = "*/*", method: str = "GET"
    ) -> tuple[int, str]:
        """Ask a server of the agent on its node's loopback."""
        with entered(self.node(node).netns):
            sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = sock
        try:
            connection.request(method, path, headers={"accept": accept})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metric(self, node: str, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels."""
        _, body = self.http(node, 15020, "/metrics")
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        rows = [row for row in body.splitlines() if re.match(re.escape(name) + r"[{ ]", row)]
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if all(part in row for part in wanted))

    def cli(self, *arguments: str, node: str | None = None) -> subprocess.CompletedProcess[str]:
        """`ztun ARGUMENTS`, for the agent of a node where one is named."""
        where = []
        if node is not None:
            where = ["--instance", self.mesh.instance(node), "--run-dir", str(self.mesh.run_dir(node))]
        return subprocess.run(
            [*ZTUN, *arguments, *where], capture_output=True, text=True, timeout=180, check=False
        )

    # -- changes

    @contextmanager
    def manifest(self, name: str, text: str) -> Iterator[Path]:
        """A file in the control plane's directory for as long as the block."""
        path = self.mesh.manifests / f"{name}.yaml"
        self.write(path, text)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def write(self, path: Path, text: str) -> None:
        """Whole or not at all: the control plane must not read half a file."""
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        draft.rename(path)

    def process(self, name: str) -> psutil.Process:
        """The newest process of the lab started under that name."""
        pids = [pid for found, pid, _ in self.lab.journal.processes() if found == name]
        return psutil.Process(pids[-1])

    def kill(self, *pids: int) -> None:
        """SIGKILL; returns when they are gone."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait_gone(pid)

    def kill_control(self, node: str) -> None:
        self.kill(self.process(f"agent-{node}").pid)

    def kill_all(self, node: str) -> None:
        """Everything of ztun on a node, at once."""
        self.kill(self.process(f"agent-{node}").pid, *self.workers(node).values())

    def restart(self, node: str) -> None:
        self.mesh.start_agent(self.node(node))
        self.mesh.wait_ready(node)


@contextmanager
def running(
    letter: str,
    tmp_path: Path,
    *,
    flags: Mapping[str, str] | None = None,
    enrolled: bool = True,
    more: str = "",
    prepare: Callable[[Topology], None] = lambda _: None,
    make: Callable[[Topology, dict[str, str]], LabMesh] = LabMesh,
) -> Iterator[World]:
    """A mesh with its applications and, unless told otherwise, the pods of ENROLLED captured.

    `more`: manifests of pods beside them. `prepare` is called when the nodes are there and before anything of the mesh
    runs; `make` gives one with another control plane.
    """
    manifests = tmp_path / "manifests"
    manifests.mkdir(parents=True)
    (manifests / "pods.yaml").write_text(pod_manifests() + more)
    services = service_manifest("server", "app: server", VIP4, VIP6)
    services += service_manifest("own", "pod: server-a", OWN_VIP)
    (manifests / "services.yaml").write_text(services)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "all.yaml").write_text(
        pod_manifests()
        + more
        + services
        + service_manifest("hidden", "pod: server-a", HOST_VIP, node_port=NODE_PORT)
    )
    # A short path: sockets lie in it, also where pytest's own directories have long names.
    with tempfile.TemporaryDirectory(prefix="ztun-") as short:
        lab = Topology(f"hj{os.getpid()}{letter}", Path(short))
        world = World(lab, make(lab, dict(flags or {})))
        try:
            lab.up(blueprint.read(hidden))
            prepare(lab)
            world.mesh.start(manifests)
            for pod in ("server-a", "server-b", "outsider-a", "outsider-b"):
                world.serve(pod)
            if enrolled:
                pods = [world.pod(name) for name in ENROLLED]
                for pod in pods:
                    world.mesh.enroll(pod)
                world.mesh.wait_announced(*pods)
            yield world
        except BaseException:
            if lab.journal.exists:
                sys.stderr.write(lab.journal.last_words(60))
            raise
        finally:
            for app in world.applications.values():
                app.close()
            world.mesh.down()
