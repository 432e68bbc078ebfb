"""`scripts/bench survive`: what lives on while the agents of both nodes are upgraded in turn. Needs root.

A thousand connections that say a word every half a second and a few that send without end, each byte checked, over
HBONE in both directions and inside one node; beside them new connections without a pause. First a while without
upgrades, as the measure; then the upgrades; then all of ztun on a node is killed. What is asked at the end of each
phase: what was lost, the longest answer, whether counters went back, and whether memory and descriptors are where
they were.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from agent.lab.agents import ZTUN
from redirect.netns import entered
from tests.bench.changes import CAPTURED, FLAGS, loaded, serve
from tests.bench.conclusion import conclude
from tests.bench.swaps import other_version, roll
from tests.bench.systems import HERE, START_TIMEOUT_S
from tests.support.labmesh import World, running

UPGRADES, TUNNELS, REQUESTS, BULK = 20, 1_000, 100_000, 2
PORT = 8091
SLOWER_S = 0.25
"""How much longer than without upgrades an answer may take."""
GROWTH = 1.1
KILLED_S = 3.5
"""When connections that all of ztun's end has taken have to be told, from the next start on."""
QUIET_S, LOOK_S, KILLED_PATIENCE_S = 10.0, 0.05, 60.0
INSIDE = "client-a to server-a"
"""The path that does not touch the node whose processes are killed."""
SURVIVORS = (sys.executable, "-S", "-E", str(HERE / "survivors.py"))
COUNTERS = (
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
)


@dataclass(slots=True)
class Crowds:
    """The connections that are to live on, by path; started one after the other, so that none meets the crowd."""

    world: World
    each: int
    _clients: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        for client, server in CAPTURED:
            address = self.world.address(server)
            command = [*SURVIVORS, "live", address, str(PORT), str(self.each), str(BULK)]
            with entered(self.world.pod(client).netns):
                process = self._clients[f"{client} to {server}"] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the connections {client} to {server} were not made")

    def told(self) -> dict[str, dict[str, Any]]:
        """What happened since the last time, by path."""
        answers = {}
        for path, client in self._clients.items():
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            answers[path] = json.loads(client.stdout.readline())
        return answers

    def kill(self) -> None:
        for client in self._clients.values():
            client.kill()
            client.wait()


@dataclass(slots=True)
class Phase:
    """`living` as of Crowds, `fresh` as of Load, both by path; `went_back`: counters, in words."""

    name: str
    upgrades: dict[str, int] = field(default_factory=dict)
    living: dict[str, dict[str, Any]] = field(default_factory=dict)
    fresh: dict[str, dict[str, Any]] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        words = sum(int(told["words"]) for told in self.living.values())
        return words + sum(int(told["visits"]) for told in self.fresh.values())

    @property
    def lost(self) -> int:
        return sum(int(told["lost"]) for told in self.living.values())

    @property
    def failed(self) -> int:
        return sum(sum(told["failed"].values()) for told in self.fresh.values())


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the agents of a node and their workers hold."""

    memory_mb: float
    descriptors: int
    processes: int


@contextmanager
def lived(world: World, tunnels: int) -> Iterator[Crowds]:
    crowds = Crowds(world, tunnels // len(CAPTURED))
    try:
        crowds.start()
        yield crowds
    finally:
        crowds.kill()


def quiet(world: World, crowds: Crowds) -> Phase:
    phase = Phase("no upgrade")
    crowds.told()
    with loaded(world, CAPTURED) as load:
        time.sleep(QUIET_S)
        phase.living = crowds.told()
    phase.fresh = load.told
    return phase


def upgrade_in_turn(
    world: World,
    crowds: Crowds,
    options: argparse.Namespace,
    other: tuple[str, ...],
    tell: Callable[[str], None],
) -> Phase:
    """Both nodes in turn; every second upgrade of a node changes the version, back and forth."""
    phase = Phase("upgrades")
    ours = dict.fromkeys(world.lab.nodes, world.mesh.ztun)
    with loaded(world, CAPTURED) as load:
        number = 0
        while number < options.upgrades or phase.requests + load.made() < options.requests:
            node = list(ours)[number % 2]
            before = counters(world, node)
            change = "other options"
            if number // 2 % 2 == 0:
                ours[node] = other if ours[node] != other else ZTUN
                change = "other version" if ours[node] == other else "back"
            roll(world, node, ours[node], number)
            world.mesh.wait_ready(node)
            phase.upgrades[change] = phase.upgrades.get(change, 0) + 1
            load.goes_on()
            after = counters(world, node)
            phase.went_back += [
                f"{node}, upgrade {number}: {name} {before[name]:g} -> {after[name]:g}"
                for name in COUNTERS
                if after[name] < before[name]
            ]
            add(phase.living, crowds.told())
            tell(
                f"upgrade {number + 1}, {change}, {node}: {phase.lost} lost, longest {longest(phase) * 1e3:.0f} ms"
            )
            number += 1
    phase.fresh = load.told
    return phase


def kill(world: World, crowds: Crowds) -> tuple[Phase, float]:
    """All of ztun on one node, and the next start; the seconds from that until all it had was told of its end."""
    phase, node = Phase("all of ztun killed"), "node-b"
    crowds.told()
    with loaded(world, CAPTURED) as load:
        world.kill_all(node)
        began_s = time.monotonic()
        world.mesh.start_agent(world.node(node))
        while time.monotonic() < began_s + KILLED_PATIENCE_S:
            told = crowds.told()
            add(phase.living, told)
            if not any(each["alive"] for path, each in told.items() if path != INSIDE):
                break
            time.sleep(LOOK_S)
        took_s = time.monotonic() - began_s
        world.mesh.wait_ready(node)
        load.goes_on()
    phase.fresh = load.told
    return phase, took_s


def add(living: dict[str, dict[str, Any]], told: dict[str, dict[str, Any]]) -> None:
    """`told` is the next part of the same phase."""
    for path, part in told.items():
        whole = living.setdefault(path, {**part, "words": 0, "bulk_bytes": 0, "longest_s": 0.0, "p99_s": 0.0})
        whole.update({key: part[key] for key in ("alive", "lost", "why", "p50_s")})
        whole["words"] += part["words"]
        whole["bulk_bytes"] += part["bulk_bytes"]
        whole["longest_s"] = max(whole["longest_s"], part["longest_s"])
        whole["p99_s"] = max(whole["p99_s"], part["p99_s"])


def longest(phase: Phase) -> float:
    return max((float(told["longest_s"]) for told in phase.living.values()), default=0.0)


def counters(world: World, node: str) -> dict[str, float]:
    return {name: world.metric(node, name) for name in COUNTERS}


def holdings(world: World, node: str) -> Holdings:
    processes = [
        psutil.Process(pid) for pid in (world.process(f"agent-{node}").pid, *world.workers(node).values())
    ]
    memory = sum(process.memory_full_info().pss for process in processes)
    return Holdings(memory / 1e6, sum(process.num_fds() for process in processes), len(processes))


def misses(
    phases: list[Phase], held: list[dict[str, Holdings]], killed_s: float, options: argparse.Namespace
) -> list[str]:
    """A line for each target that is not met."""
    before, upgraded, killed = phases
    found = [
        f"upgrades, {path}: {told['lost']} of {told['lost'] + told['alive']} connections lost: {told['why']}"
        for path, told in upgraded.living.items()
        if told["lost"]
    ]
    for phase in (before, upgraded):
        if phase.failed:
            found.append(f"{phase.name}: {phase.failed} new connections failed, target none")
    if any(what.startswith("connect") for told in killed.fresh.values() for what in told["failed"]):
        found.append(f"{killed.name}: connections that came while nobody was there failed, target none")
    if upgraded.requests < options.requests:
        found.append(f"{upgraded.requests} requests, target {options.requests} at least")
    allowed_s = longest(before) + SLOWER_S
    if longest(upgraded) > allowed_s:
        found.append(f"longest answer {longest(upgraded) * 1e3:.0f} ms, target {allowed_s * 1e3:.0f} at most")
    found += [f"a counter went back: {line}" for line in upgraded.went_back]
    for node, then in held[0].items():
        now = held[1][node]
        if now.memory_mb > then.memory_mb * GROWTH:
            found.append(
                f"{node}: memory {then.memory_mb:.1f} -> {now.memory_mb:.1f} MB, target {GROWTH:g} x at most"
            )
        if now.descriptors > then.descriptors * GROWTH:
            found.append(
                f"{node}: {then.descriptors} -> {now.descriptors} descriptors, target {GROWTH:g} x at most"
            )
    if killed_s > KILLED_S:
        found.append(f"what was killed was told after {killed_s:.1f} s, target {KILLED_S:g} at most")
    return found


def table(phases: list[Phase]) -> str:
    lines = []
    for phase in phases:
        upgrades = ", ".join(f"{many} {change}" for change, many in phase.upgrades.items())
        lines.append(
            f"{phase.name}: {upgrades or 'none'}; {phase.requests} requests, {phase.lost} connections lost, "
            f"{phase.failed} new ones failed"
        )
        for path, told in phase.living.items():
            lines.append(
                f"  {path:24} {told['alive']:5} alive {told['lost']:5} lost  {told['words']:7} words  "
                f"p99 {told['p99_s'] * 1e3:6.1f} ms  longest {told['longest_s'] * 1e3:6.0f} ms  "
                f"{told['bulk_bytes'] / 1e6:6.0f} MB  {told['why'] or ''}"
            )
        for path, told in phase.fresh.items():
            lines.append(
                f"  {path:24} {told['visits']:5} new  p99 {told['p99_s'] * 1e3:6.1f} ms  "
                f"longest {told['longest_s'] * 1e3:6.0f} ms  {told['failed'] or ''}"
            )
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench survive", description="connections that live on while agents are upgraded"
    )
    parser.add_argument(
        "--rounds", dest="upgrades", type=int, default=UPGRADES, help=f"upgrades; default {UPGRADES}"
    )
    parser.add_argument(
        "--count", dest="tunnels", type=int, default=TUNNELS, help=f"connections; default {TUNNELS}"
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"at least; default {REQUESTS}")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    return parser.parse_args(argv)


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryDirectory() as version,
        running("s", Path(directory), flags=FLAGS) as world,
    ):
        for name in ("server-a", "server-b"):
            serve(world, name)
            command = [*SURVIVORS, "serve", str(PORT)]
            world.lab.processes.start_ready(
                f"survivors-{name}", world.pod(name).netns, command, timeout_s=START_TIMEOUT_S
            )
        tell("the mesh is there")
        with lived(world, options.tunnels) as crowds:
            tell("the connections are there")
            phases = [quiet(world, crowds)]
            held = [{node: holdings(world, node) for node in world.lab.nodes}]
            tell(table(phases))
            phases.append(upgrade_in_turn(world, crowds, options, other_version(Path(version)), tell))
            held.append({node: holdings(world, node) for node in world.lab.nodes})
            tell(table(phases[-1:]))
            phase, killed_s = kill(world, crowds)
            phases.append(phase)
    figures = {phase.name: asdict(phase) for phase in phases} | {
        "held": [{node: asdict(each) for node, each in then.items()} for then in held],
        "killed_s": killed_s,
    }
    return conclude(table(phases), figures, misses(phases, held, killed_s, options), load, options, tell)
