"""`scripts/bench start`: how long an agent takes from its command to ready, with its programs in the kernel already.

A lab of two nodes; the agent of one is ended, with all of its workers, and started again, as a restart of its container
does: pins, a captured pod and its wish are there, state and certificates come from the control plane. With
`--against REV` another commit does the same in a lab beside it, in turns. Needs root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import FORM
from agent.lab import blueprint
from agent.lab.agents import LabMesh
from agent.lab.blueprint import LabError
from agent.lab.topology import Topology
from redirect.netns import entered
from tests.bench import accounting, earlier
from tests.bench.conclusion import conclude
from tests.bench.systems import MANIFESTS, pod_of

ROOT = Path(__file__).parents[2]
ROUNDS = 11
NODE, POD = "node-b", "server"
READINESS_PORT = 15021
OWN = (str(Path(sys.executable).with_name("ztun")),)
"""The command as users have it: an interpreter that is not isolated yet."""
PATIENCE_S = 30.0
LOOK_S = 0.002
READY_LIMIT_S, RATIO_LIMIT = 0.25, 0.5


@dataclass(frozen=True, slots=True)
class Start:
    """One of them: seconds until ready, and CPU seconds of all its processes by then."""

    ready_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """Medians; `ratio`: over the other commit, the median of the ratios of rounds."""

    ready_s: float
    cpu_s: float
    before_ready_s: float | None = None
    before_cpu_s: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None


def summed(starts: Sequence[Start], before: Sequence[Start]) -> Result:
    """At least one start; as many of another commit, or none."""
    own = median(starts, "ready_s"), median(starts, "cpu_s")
    if not before:
        return Result(*own)
    pairs = list(zip(starts, before, strict=True))
    return Result(
        *own,
        median(before, "ready_s"),
        median(before, "cpu_s"),
        statistics.median(one.ready_s / other.ready_s for one, other in pairs),
        statistics.median(one.cpu_s / other.cpu_s for one, other in pairs),
    )


def median(starts: Sequence[Start], figure: str) -> float:
    return statistics.median(getattr(start, figure) for start in starts)


def misses(result: Result) -> list[str]:
    """A line for each target that is not met."""
    lines = []
    if result.ready_s > READY_LIMIT_S:
        lines.append(f"ready after {result.ready_s:.2f} s, target at most {READY_LIMIT_S:g}")
    if result.ratio is not None and result.ratio > RATIO_LIMIT:
        lines.append(f"ready after {result.ratio:.2f} of the time of before, target at most {RATIO_LIMIT:g}")
    return lines


class Restarts:
    """A lab whose agent of one node starts again and again. `ztun`: the command, where it is not this tree's."""

    def __init__(self, name: str, workers: int, ztun: tuple[str, ...] = OWN) -> None:
        self._mesh = LabMesh(Topology(name), {"workers": str(workers)}, ztun)
        self.down = self._mesh.down

    def open(self) -> None:
        """Build the lab; the first start compiles and enrols. Raises LabError."""
        topology = self._mesh.topology
        topology.up(blueprint.read(MANIFESTS))
        shutil.copytree(MANIFESTS, self._mesh.manifests, dirs_exist_ok=True)
        self._mesh.start_control_plane()
        self._node = topology.nodes[NODE]
        self._agent = self._mesh.start_agent(self._node)
        self._mesh.wait_ready(NODE)
        self._mesh.enroll(pod_of(self._mesh, POD))

    def once(self) -> Start:
        """End the agent and its workers, start it, wait until it is ready. Raises LabError."""
        self._agent.send_signal(signal.SIGTERM)
        self._agent.wait()
        began_s = time.monotonic()
        self._agent = self._mesh.start_agent(self._node)
        with entered(self._node.netns):
            while not is_ready():
                if time.monotonic() - began_s > PATIENCE_S:
                    raise LabError(f"not ready again; see {self._mesh.log(f'agent-{NODE}')}")
                time.sleep(LOOK_S)
        took_s = time.monotonic() - began_s
        used_s = accounting.cpu_s([self._agent.pid, *accounting.children(self._agent.pid)])
        if not self._mesh.status(NODE)["pods"]:
            raise LabError("ready without the pod that it had before")
        return Start(took_s, used_s)


def is_ready() -> bool:
    """As a kubelet asks, from inside the node's namespace."""
    try:
        with socket.create_connection(("127.0.0.1", READINESS_PORT), timeout=PATIENCE_S) as sock:
            sock.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
            return sock.recv(64).startswith(b"HTTP/1.1 200 ")
    except ConnectionError:
        return False


def measure(
    name: str, rounds: int, workers: int, before: tuple[str, ...] | None, tell: Callable[[str], None]
) -> Result:
    labs = [Restarts(name, workers)]
    if before:
        labs.append(Restarts(f"{name}0", workers, before))
    starts: list[list[Start]] = [[] for _ in labs]
    with ExitStack() as stack:
        for lab in labs:
            stack.callback(lab.down)
            lab.open()
        for number in range(rounds):
            for lab, found in zip(labs, starts, strict=True):
                found.append(lab.once())
            tell(
                f"round {number + 1} of {rounds}: "
                + ", ".join(f"{each[-1].ready_s:.2f} s" for each in starts)
            )
    return summed(starts[0], starts[1] if before else ())


def table(result: Result) -> str:
    rows = [("", "ready", "CPU"), ("ztun", f"{result.ready_s:.3f} s", f"{result.cpu_s:.2f} s")]
    if result.before_ready_s is not None:
        rows.append(("before", f"{result.before_ready_s:.3f} s", f"{result.before_cpu_s:.2f} s"))
        rows.append(("ztun/before", f"{result.ratio:.2f}", f"{result.cpu_ratio:.2f}"))
    lines = [f"| {name:<12} | {ready:>8} | {cpu:>8} |" for name, ready, cpu in rows]
    lines.insert(1, f"|{'-' * 14}|{'-' * 9}:|{'-' * 9}:|")
    return "\n".join(lines)


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench start", description="from the agent's command to ready, programs in the kernel"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--against", metavar="REV", help="another commit in turns with this tree")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures")
    parser.add_argument("--name", default="ztunstart", help="name of the lab, 9 characters at most")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.workers < 1:
        parser.error("--rounds and --workers: at least 1")
    if len(options.name) > 9:
        parser.error("--name: 9 characters at most")
    load = os.getloadavg()[0]
    before = earlier.install(options.against, ROOT, tell, like=FORM) if options.against else None
    result = measure(options.name, options.rounds, options.workers, before, tell)
    return conclude(table(result), asdict(result), misses(result), load, options, tell)
