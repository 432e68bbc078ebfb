"""`scripts/bench changes`: connections without a pause while the mesh beneath them changes. Needs root.

First pods are enrolled and let go in turn, then agents are swapped: the next one waits for the end of the one before,
one is killed, one is of a version with other programs, and the one before comes back. What is counted is what
applications see, by paths; and packets of the captured pods that cross the link between the nodes without TLS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent.lab.agents import ZTUN
from redirect.netns import entered
from tests.bench.conclusion import conclude
from tests.bench.plain_packets import PlainPackets
from tests.bench.swaps import other_version, roll, start
from tests.bench.systems import HERE, START_TIMEOUT_S
from tests.support.labmesh import World, running
from tests.support.labtraffic import until

ROOT = HERE.parents[1]
COUNT, ENROL_SHARE, SWAPS = 50_000, 40, 20
APP_PORT, AT_ONCE = 8090, 2
MORE, PATIENCE_S = 100, 60.0
DRAIN_S, STOP_S = 5, 3.0
KILLED = "all of ztun killed"
FLAGS = {"start-patience-s": "60"}
CAPTURED = (("client-a", "server-b"), ("client-b", "server-a"), ("client-a", "server-a"))
AROUND = (
    ("spare-a", "server-b"),
    ("spare-a", "outsider-b"),
    ("client-b", "spare-a"),
    ("outsider-b", "spare-a"),
)
"""The pod that comes and goes, as client and as server, of pods of the mesh and of others."""
PYTHON = (sys.executable, "-S", "-E")


@dataclass(slots=True)
class Load:
    """Visits on some paths, from a pod to another or to an address. `told`: what became of them, by path, once over."""

    world: World
    paths: tuple[tuple[str, str], ...]
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    _clients: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        for client, server in self.paths:
            command = [
                *PYTHON,
                "-m",
                "tests.bench.visits",
                self.world.address(server) if f"demo/{server}" in self.world.lab.pods else server,
                str(APP_PORT),
                str(AT_ONCE),
            ]
            with entered(self.world.pod(client).netns):
                self._clients[f"{client} to {server}"] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
                )

    def made(self) -> int:
        """How many visits there were so far."""
        made = 0
        for client in self._clients.values():
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            made += int(client.stdout.readline())
        return made

    def goes_on(self) -> None:
        """Return when there were some more."""
        wanted = self.made() + MORE
        until(lambda: self.made() >= wanted, "visits go on", PATIENCE_S)

    def end(self) -> None:
        """Raises RuntimeError where a client itself has ended."""
        for client in self._clients.values():
            assert client.stdin is not None
            client.stdin.close()
        for path, client in self._clients.items():
            assert client.stdout is not None
            text = client.stdout.read()
            if client.wait():
                raise RuntimeError(f"the client {path} ended with status {client.returncode}")
            self.told[path] = json.loads(text)

    def kill(self) -> None:
        for client in self._clients.values():
            client.kill()
            client.wait()


@contextmanager
def loaded(world: World, paths: tuple[tuple[str, str], ...]) -> Iterator[Load]:
    load = Load(world, paths)
    try:
        load.start()
        yield load
        load.end()
    except BaseException:
        load.kill()
        raise


@dataclass(slots=True)
class Phase:
    """`changes`: how often each was made; `told` as of Load; `plain`: packets without TLS."""

    name: str
    changes: dict[str, int] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    plain: int = 0

    @property
    def visits(self) -> int:
        return sum(told["visits"] for told in self.told.values())

    @property
    def failed(self) -> int:
        return sum(sum(told["failed"].values()) for told in self.told.values())

    def note(self, change: str) -> None:
        self.changes[change] = self.changes.get(change, 0) + 1


def enrol_in_turn(world: World, count: int, turns: int) -> Phase:
    """A pod comes into the mesh and leaves it, and what is open goes on both times."""
    phase, spare = Phase("enrolled and let go"), world.pod("spare-a")
    with loaded(world, AROUND) as load:
        while phase.changes.get("enrolled", 0) < turns or load.made() < count:
            world.mesh.enroll(spare, keep_existing=True)
            phase.note("enrolled")
            load.goes_on()
            world.mesh.unenroll(spare, drain_s=DRAIN_S)
            phase.note("let go")
            load.goes_on()
    phase.told = load.told
    return phase


def swap_in_turn(world: World, count: int, swaps: int, other: tuple[str, ...]) -> Phase:
    """Agents of both nodes; a third of the swaps changes the version, back and forth."""
    phase = Phase("agents swapped")
    ours = dict.fromkeys(world.lab.nodes, world.mesh.ztun)
    packets = PlainPackets(world.node("node-a").netns, APP_PORT)
    try:
        with loaded(world, CAPTURED) as load:
            number = 0
            while number < swaps or load.made() < count:
                node = list(ours)[number % 2]
                match number // 2 % 3:
                    case 0:
                        ours[node] = other if ours[node] != other else ZTUN
                        change = "other version" if ours[node] == other else "back"
                        roll(world, node, ours[node], number)
                    case 1:
                        change = "killed"
                        world.kill_control(node)
                        start(world, node, ours[node], number)
                    case _:
                        change = "other options"
                        roll(world, node, ours[node], number)
                world.mesh.wait_ready(node)
                phase.note(change)
                load.goes_on()
                number += 1
        phase.told, phase.plain = load.told, packets.count
    finally:
        packets.close()
    return phase


def kill_in_turn(world: World, kills: int) -> Phase:
    """Every process of ztun on a node at once: what is open is reset, what comes waits for the next agent."""
    phase = Phase(KILLED)
    packets = PlainPackets(world.node("node-a").netns, APP_PORT)
    try:
        with loaded(world, CAPTURED) as load:
            for number in range(kills):
                node = list(world.lab.nodes)[number % 2]
                world.kill_all(node)
                phase.note("killed")
                world.mesh.start_agent(world.node(node))
                world.mesh.wait_ready(node)
                load.goes_on()
        phase.told, phase.plain = load.told, packets.count
    finally:
        packets.close()
    return phase


def stop_in_turn(world: World, stops: int) -> Phase:
    """One of the workers of a node stands still for a while: what the others serve goes on, and its own waits."""
    phase = Phase("a worker stopped")
    with loaded(world, CAPTURED) as load:
        for number in range(stops):
            pid = world.workers(list(world.lab.nodes)[number % 2])[0]
            os.kill(pid, signal.SIGSTOP)
            try:
                phase.note("stopped")
                time.sleep(STOP_S)
            finally:
                os.kill(pid, signal.SIGCONT)
            load.goes_on()
    phase.told = load.told
    return phase


def misses(phases: list[Phase], counts: tuple[int, int]) -> list[str]:
    """A line for each target that is not met. `counts`: of connections in the first two phases."""
    found = []
    for phase in phases:
        for path, told in phase.told.items():
            refused = {what: many for what, many in told["failed"].items() if not is_of_killed(phase, what)}
            if refused:
                found.append(f"{phase.name}, {path}: {sum(refused.values())} failed: {refused}")
        if phase.plain:
            found.append(f"{phase.name}: {phase.plain} packets without TLS between the nodes, target none")
    found += [
        f"{phase.name}: {phase.visits} connections, target {count} at least"
        for phase, count in zip(phases, counts, strict=False)
        if phase.visits < count
    ]
    return found


def is_of_killed(phase: Phase, what: str) -> bool:
    """Where all of ztun is killed what is open ends with it, and says so by a reset; nothing else may fail."""
    return phase.name == KILLED and not what.startswith("connect") and "reset" in what


def table(phases: list[Phase]) -> str:
    lines = []
    for phase in phases:
        changes = ", ".join(f"{many} {change}" for change, many in phase.changes.items())
        lines.append(
            f"{phase.name}: {changes}; {phase.visits} connections, {phase.failed} failed, {phase.plain} packets plain"
        )
        lines += [
            f"  {path:24} {told['visits']:7}  p50 {told['p50_s'] * 1e3:7.1f} ms  p99 {told['p99_s'] * 1e3:8.1f} ms  "
            f"longest {told['longest_s']:5.2f} s  {told['failed'] or ''}"
            for path, told in phase.told.items()
        ]
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench changes", description="connections while pods come and go and agents are swapped"
    )
    parser.add_argument(
        "--count", type=int, default=COUNT, help=f"connections while agents are swapped; default {COUNT}"
    )
    parser.add_argument(
        "--rounds", type=int, default=SWAPS, help=f"swaps at least, and turns; default {SWAPS}"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    return parser.parse_args(argv)


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    phases = []
    with (
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryDirectory() as version,
        running("c", Path(directory), flags=FLAGS) as world,
    ):
        for name in ("server-a", "server-b", "outsider-b", "spare-a"):
            serve(world, name)
        tell("the mesh is there")
        phases.append(enrol_in_turn(world, options.count * ENROL_SHARE // 100, options.rounds))
        tell(table(phases[-1:]))
        phases.append(swap_in_turn(world, options.count, options.rounds, other_version(Path(version))))
        tell(table(phases[-1:]))
        phases.append(kill_in_turn(world, max(2, options.rounds // 5)))
        tell(table(phases[-1:]))
        phases.append(stop_in_turn(world, max(2, options.rounds // 5)))
    counts = (options.count * ENROL_SHARE // 100, options.count)
    figures = {phase.name: asdict(phase) for phase in phases}
    return conclude(table(phases), figures, misses(phases, counts), load, options, tell)


def serve(world: World, name: str) -> None:
    command = [*PYTHON, str(HERE / "load.py"), "serve", str(APP_PORT), "-1"]
    world.lab.processes.start_ready(f"load-{name}", world.pod(name).netns, command, timeout_s=START_TIMEOUT_S)
