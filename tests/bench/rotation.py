"""`scripts/bench rotation`: requests while certificates that live 20 s are renewed again and again. Needs root.

Two nodes, the product as a user runs it; only the lifetime asked for and the pool's patience are short. 64 connections:
half of them live through all of it, the others come in shifts, and each shift needs handshakes of its own, because the
connections that the one before had used are closed by then. What is counted is what the applications see.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from redirect.netns import entered
from tests.bench.conclusion import conclude
from tests.bench.systems import HERE, START_TIMEOUT_S
from tests.support.labmesh import World, running

TTL_S, LENGTH_S, WARM_UP_S, CONNECTIONS = 20, 180.0, 1.0, 64
LEAST_REQUESTS, LEAST_ROTATIONS = 100_000, 8
APP_PORT = 8090
FLAGS = {"secret-ttl-s": str(TTL_S), "pool-idle-s": "1", "pool-max-streams": "1"}
ENDS = {"node-a": "client", "node-b": "server"}
"""The node of each end, and the account of its pod."""
LOOK_S = 0.3


@dataclass(slots=True)
class Seen:
    """What was seen of the mesh meanwhile: serials by node, and HBONE connections that had come since a look."""

    serials: dict[str, set[str]] = field(default_factory=lambda: {node: set() for node in ENDS})
    handshakes: int = 0
    _open: int = 0

    def look(self, world: World) -> None:
        for node, account in ENDS.items():
            _, body = world.http(node, 15000, "/config_dump")
            for row in json.loads(body)["certificates"]:
                if row["identity"].endswith(f"/sa/{account}") and row["certChain"]:
                    self.serials[node].add(row["certChain"][0]["serialNumber"])
        count = len(world.tunnels("node-a"))
        self.handshakes += max(0, count - self._open)
        self._open = count

    @property
    def rotations(self) -> dict[str, int]:
        return {node: len(serials) - 1 for node, serials in self.serials.items()}


@dataclass(frozen=True, slots=True)
class Result:
    """`failed_handshakes` and `failed_connections` are the agents' own figures, of both nodes."""

    requests: int
    failed: int
    connections: int
    seconds: float
    rotations: dict[str, int]
    handshakes: int
    failed_handshakes: int
    failed_connections: int
    failures: list[str]


def measure(world: World, length_s: float) -> Result:
    """Raises RuntimeError where the client itself ends."""
    server = [sys.executable, "-S", "-E", str(HERE / "load.py"), "serve", str(APP_PORT), "-1"]
    world.lab.processes.start_ready(
        "load-server", world.pod("server-b").netns, server, timeout_s=START_TIMEOUT_S
    )
    target = [world.address("server-b"), str(APP_PORT), str(CONNECTIONS), str(WARM_UP_S), str(length_s), "-1"]
    seen = Seen()
    with entered(world.pod("client-a").netns):
        client = subprocess.Popen(
            [sys.executable, "-S", "-E", "-m", "tests.bench.shifts", "shifts", *target],
            stdout=subprocess.PIPE,
            cwd=HERE.parents[1],
        )
    with client:
        try:
            while client.poll() is None:
                seen.look(world)
                time.sleep(LOOK_S)
        except BaseException:
            client.kill()
            raise
        assert client.stdout is not None
        lines = client.stdout.read().splitlines()
    if client.returncode or len(lines) != 2:
        raise RuntimeError(f"the client ended with status {client.returncode} and {len(lines)} lines")
    told = json.loads(lines[1])
    return Result(
        told["requests"],
        told["failed"],
        told["connections"],
        told["seconds"],
        seen.rotations,
        seen.handshakes,
        _counted(world, "ztun_handshake_failures_total"),
        _counted(world, "ztun_connections_failed_total"),
        told["failures"],
    )


def _counted(world: World, name: str) -> int:
    return int(sum(world.metric(node, name) for node in ENDS))


def misses(result: Result) -> list[str]:
    """A line for each target that is not met."""
    found = (
        [f"{result.failed} requests failed, target none: {'; '.join(result.failures)}"]
        if result.failed
        else []
    )
    for count, what in ((result.failed_handshakes, "handshakes"), (result.failed_connections, "connections")):
        if count:
            found.append(f"the agents count {count} {what} that failed, target none")
    if result.requests < LEAST_REQUESTS:
        found.append(f"{result.requests} requests, target {LEAST_REQUESTS} at least")
    found += [
        f"{count} rotations on {node}, target {LEAST_ROTATIONS} at least"
        for node, count in result.rotations.items()
        if count < LEAST_ROTATIONS
    ]
    return found


def table(result: Result) -> str:
    rotations = ", ".join(f"{count} on {node}" for node, count in result.rotations.items())
    return (
        f"{CONNECTIONS} connections for {result.seconds:.0f} s, certificates of {TTL_S} s\n\n"
        f"requests            {result.requests} ({result.requests / result.seconds:.0f}/s), {result.failed} failed\n"
        f"connections         {result.connections}, {result.failed_connections} failed by the agents' count\n"
        f"rotations           {rotations}\n"
        f"handshakes          {result.handshakes} at least, {result.failed_handshakes} failed by the agents' count"
    )


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench rotation", description="certificates renewed under load"
    )
    parser.add_argument(
        "--length", type=float, default=LENGTH_S, metavar="S", help=f"how long; default {LENGTH_S:g} s"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    options = parser.parse_args(argv)
    if options.length < 1:
        parser.error("--length: at least 1 s")
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory, running("r", Path(directory), flags=FLAGS) as world:
        tell("the mesh is there")
        result = measure(world, options.length)
    return conclude(table(result), asdict(result), misses(result), load, options, tell)
