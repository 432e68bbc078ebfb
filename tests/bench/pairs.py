"""`scripts/bench pairs`: how soon 5,000 pairs of pods talk again after the agent of one node has restarted.

Two nodes, as many pods on each as make the pairs, an account for each pod; every client pod keeps a connection to
every server pod, and so each pair has an HBONE connection of its own. Then the servers' node ends its agent and all
workers, as a rollout does, and starts it again. Beside it, the floor: as many handshakes by pyOpenSSL alone, both ends,
with certificates and key exchange of the same kinds and nothing around them. Needs root.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL import SSL

from agent.lab import blueprint
from agent.lab.agents import LabMesh
from agent.lab.blueprint import LabError
from agent.lab.topology import Topology
from agent.lab.wiring import write_sysctl
from redirect.netns import entered
from tests.bench import accounting
from tests.bench.conclusion import conclude
from tests.bench.envoy import write_credentials
from tests.bench.systems import CORES, SYSCTLS

HERE = Path(__file__).parent
PAIRS, NODE = 5_000, "node-b"
LIMIT_S = 8.0
MOST_BEGUN = 1.05
"""Handshakes for each pair: what comes to nothing is done for nothing, and keeps others waiting."""
PORT, METRICS_PORT = 8080, 15020
FAILURES = re.compile(r'^ztun_handshake_failures_total\{.*reason="(\w+)".*\} (\S+)$', re.MULTILINE)
REPORTED_S = 2.5
"""By then workers have told what they counted."""
NAMESPACE = "bench"
FLOOR_HANDSHAKES = 300
BUFFER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU of one handshake by OpenSSL alone, in microseconds."""

    client_us: float
    server_us: float


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds from where the restarted agent is ready, and from where the first connection ended, to the last answer.

    CPU seconds are of the workers and the control process of a node: of the clients' from the order to end until all
    have answered, of the servers' from where it is ready. Handshakes that came to nothing are counted at either end, by
    reason.
    """

    pairs: int
    since_ready_s: float
    half_since_ready_s: float
    since_first_end_s: float
    away_s: float
    client_node_cpu_s: float
    server_node_cpu_s: float
    server_start_cpu_s: float
    hbone_connections: int
    client_failures: dict[str, int]
    server_failures: dict[str, int]
    floor: Floor

    @property
    def begun_for_each(self) -> float:
        """Handshakes that were begun, over those that were needed."""
        came_to_nothing = max(sum(self.client_failures.values()), sum(self.server_failures.values()))
        return 1 + came_to_nothing / self.pairs


class Pairs:
    """A lab with so many pods on each node, all in the mesh."""

    def __init__(
        self, name: str, pods: int, workers: int, tell: Callable[[str], None], cores: dict[str, int]
    ):
        self._tell = tell
        self._cores = cores
        self.mesh = LabMesh(Topology(name), {"workers": str(workers)})
        self._pods = pods

    def open(self) -> None:
        """Raises LabError."""
        topology = self.mesh.topology
        self._tell(f"building the lab: two nodes, {self._pods} pods on each")
        with TemporaryDirectory() as directory:
            documents = blueprint.generate(self._pods, NAMESPACE, PORT)
            blueprint.write(documents, Path(directory) / "pods.yaml")
            topology.up(blueprint.read(Path(directory)))
            for place in (*topology.nodes.values(), *topology.pods.values()):
                with entered(place.netns):
                    for name, value in SYSCTLS.items():
                        write_sysctl(name, value)
            self.mesh.start(Path(directory))
        pods = list(topology.pods.values())
        self._tell("enrolling them")
        for pod in pods:
            self.mesh.enroll(pod)
        self.mesh.wait_announced(*pods)

    def talk(self) -> subprocess.Popen[bytes]:
        """The applications, once all pairs have answered. Raises LabError."""
        topology = self.mesh.topology
        pods = topology.pods.values()
        places = {
            "servers": {str(pod.netns): str(pod.address(4)) for pod in pods if pod.node == NODE},
            "clients": [str(pod.netns) for pod in pods if pod.node != NODE],
        }
        file = topology.journal.directory / "places.json"
        file.write_text(json.dumps(places))
        for node in CORES:
            self._pin(node)
        command = [sys.executable, "-S", "-E", str(HERE / "reunion.py"), str(PORT), str(file), "-1"]
        node = topology.nodes["node-a"]
        process = topology.processes.start("applications", node.netns, command, stdout=subprocess.PIPE)
        self._tell("waiting until every pair has talked")
        self.answer(process)
        return process

    def answer(self, applications: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert applications.stdout is not None
        line = applications.stdout.readline()
        if not line:
            raise LabError(f"the applications have ended; see {self.mesh.log('applications')}")
        told: dict[str, Any] = json.loads(line)
        return told

    def restart(self) -> float:
        """End the agent and its workers, start it; when it was ready again, by the monotonic clock. Raises LabError."""
        pids = {name: pid for name, pid, _ in self.mesh.topology.journal.processes()}
        agent = pids[f"agent-{NODE}"]
        os.kill(agent, signal.SIGTERM)
        os.waitpid(agent, 0)
        self.mesh.start_agent(self.mesh.topology.nodes[NODE])
        self.mesh.wait_ready(NODE)
        ready_s = time.monotonic()
        self._pin(NODE)
        return ready_s

    def cpu_s(self, node: str) -> float:
        return accounting.cpu_s(self._processes(node))

    def failures(self, node: str) -> dict[str, int]:
        """Handshakes that came to nothing at this end, as its agent counts them, by reason."""
        place = f"http://127.0.0.1:{METRICS_PORT}/metrics"
        with entered(self.mesh.topology.nodes[node].netns), urllib.request.urlopen(place) as page:
            found = FAILURES.findall(page.read().decode())
        return {reason: int(float(count)) for reason, count in found if float(count)}

    def _processes(self, node: str) -> list[int]:
        agent = {name: pid for name, pid, _ in self.mesh.topology.journal.processes()}[f"agent-{node}"]
        return [agent, *accounting.children(agent)]

    def _pin(self, node: str) -> None:
        if node in self._cores:
            accounting.pin(self._processes(node), self._cores[node])


def floor(count: int, directory: Path) -> Floor:
    """As many full handshakes with TLS 1.3, client certificate and the default key exchange, in memory."""
    contexts = []
    for method in (SSL.TLS_CLIENT_METHOD, SSL.TLS_SERVER_METHOD):
        made = SSL.Context(method)
        made.set_min_proto_version(SSL.TLS1_3_VERSION)
        made.use_certificate_chain_file(str(directory / "leaf.pem"))
        made.use_privatekey_file(str(directory / "leaf.key"))
        made.load_verify_locations(str(directory / "ca.pem"))
        made.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: bool(arguments[-1])
        )
        made.set_options(SSL.OP_NO_TICKET)
        contexts.append(made)
    used_s = [0.0, 0.0]
    for _ in range(count):
        ends = [SSL.Connection(made, None) for made in contexts]
        ends[0].set_connect_state()
        ends[1].set_accept_state()
        open_ends, turn = {0, 1}, 0
        while open_ends:
            began_s = time.thread_time()
            _step(ends[turn], turn, open_ends)
            said = _taken(ends[turn])
            used_s[turn] += time.thread_time() - began_s
            turn = 1 - turn
            if said:
                began_s = time.thread_time()
                ends[turn].bio_write(said)
                used_s[turn] += time.thread_time() - began_s
    return Floor(*(each_s / count * 1e6 for each_s in used_s))


def _step(end: SSL.Connection, which: int, open_ends: set[int]) -> None:
    try:
        end.do_handshake()
    except SSL.WantReadError:
        return
    open_ends.discard(which)


def _taken(end: SSL.Connection) -> bytes:
    try:
        said: bytes = end.bio_read(BUFFER_BYTES)
    except SSL.WantReadError:
        return b""
    return said


def measure(options: argparse.Namespace, tell: Callable[[str], None]) -> Result:
    side = math.isqrt(options.pairs)
    lab = Pairs(options.name, side, options.workers, tell, {} if options.no_pin else CORES)
    try:
        lab.open()
        credentials = lab.mesh.topology.journal.directory / "floor"
        write_credentials(credentials, lab.mesh.state_dir, "spiffe://cluster.local/ns/bench/sa/floor")
        bare = floor(FLOOR_HANDSHAKES, credentials)
        applications = lab.talk()
        connections = len(lab.mesh.ask("node-a", "GET", "/tunnels"))
        used_s, failed = lab.cpu_s("node-a"), lab.failures("node-a")
        tell("restarting the agent of the servers")
        applications.send_signal(signal.SIGUSR1)
        ready_s = lab.restart()
        start_cpu_s = lab.cpu_s(NODE)
        told = lab.answer(applications)
        cpu_s = {node: lab.cpu_s(node) for node in CORES}
        answered_s: list[float] = told["answered_s"]
        time.sleep(REPORTED_S)
        return Result(
            pairs=len(answered_s),
            since_ready_s=answered_s[-1] - ready_s,
            half_since_ready_s=statistics.median(answered_s) - ready_s,
            since_first_end_s=answered_s[-1] - told["first_end_s"],
            away_s=ready_s - told["first_end_s"],
            client_node_cpu_s=cpu_s["node-a"] - used_s,
            server_node_cpu_s=cpu_s[NODE] - start_cpu_s,
            server_start_cpu_s=start_cpu_s,
            hbone_connections=connections,
            client_failures={
                reason: more
                for reason, count in lab.failures("node-a").items()
                if (more := count - failed.get(reason, 0))
            },
            server_failures=lab.failures(NODE),
            floor=bare,
        )
    finally:
        tell("removing the lab")
        lab.mesh.down()


def misses(result: Result) -> list[str]:
    """A line for each target that is not met."""
    found = []
    if result.since_ready_s > LIMIT_S:
        found.append(
            f"all talk again {result.since_ready_s:.1f} s after it is ready, target {LIMIT_S:g} at most"
        )
    if result.hbone_connections < result.pairs:
        found.append(
            f"{result.hbone_connections} HBONE connections for {result.pairs} pairs: one each is wanted"
        )
    if result.begun_for_each > MOST_BEGUN:
        found.append(
            f"{result.begun_for_each:.2f} handshakes were begun for each pair, target {MOST_BEGUN:g} at most"
        )
    return found


def table(result: Result) -> str:
    floor_s = [each * result.pairs / 1e6 for each in (result.floor.client_us, result.floor.server_us)]
    return (
        f"{result.pairs} pairs of pods over {result.hbone_connections} HBONE connections, one node restarted\n\n"
        f"from ready to the last       {result.since_ready_s:6.2f} s (half of them {result.half_since_ready_s:.2f})\n"
        f"from the first end to it     {result.since_first_end_s:6.2f} s, of which not ready {result.away_s:.2f}\n"
        f"CPU, client and server node  {result.client_node_cpu_s:6.2f} s, {result.server_node_cpu_s:.2f} s"
        f" ({result.client_node_cpu_s / result.pairs * 1e6:.0f} and {result.server_node_cpu_s / result.pairs * 1e6:.0f}"
        f" us a pair; the start before {result.server_start_cpu_s:.2f} s)\n"
        f"handshakes begun for a pair  {result.begun_for_each:6.3f} (failed at the clients' end"
        f" {result.client_failures}, at the servers' {result.server_failures})\n"
        f"OpenSSL alone                {floor_s[0]:6.2f} s, {floor_s[1]:.2f} s"
        f" ({result.floor.client_us:.0f} and {result.floor.server_us:.0f} us a handshake)"
    )


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench pairs", description="pairs of pods that talk again after a restart"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"about; default {PAIRS}")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--name", default="ztunpairs", help="name of the lab, 10 characters at most")
    options = parser.parse_args(argv)
    if options.pairs < 1 or options.workers < 1:
        parser.error("--pairs and --workers: at least 1")
    load = os.getloadavg()[0]
    result = measure(options, tell)
    return conclude(table(result), asdict(result), misses(result), load, options, tell)
