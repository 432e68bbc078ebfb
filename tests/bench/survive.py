"""`scripts/bench survive`: what lives on while the agents of both nodes are upgraded in turn. Needs root.

A thousand connections that say a word every half a second and a few that send without end, each byte checked, over
HBONE in both directions and inside one node; beside them new connections without a pause. First a while without
upgrades, as the measure; then the upgrades; then all of ztun on a node is killed. What is asked at the end of each
phase: what was lost, the longest answer, how long a hand-over took and what went, whether counters went back, and
whether memory and descriptors are where they were. With `--peer envoy` the other end of each tunnel is Envoy, which
knows nothing of hand-overs, and the one agent is upgraded.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from agent.lab.agents import ZTUN
from redirect.netns import entered
from tests.bench import envoy_peer, report
from tests.bench.changes import APP_PORT, CAPTURED, FLAGS, loaded, serve
from tests.bench.conclusion import conclude
from tests.bench.survival import COUNTERS, Holdings, Phase, Run, hand_over_of, table
from tests.bench.swaps import other_version, roll, start
from tests.bench.systems import HERE, START_TIMEOUT_S
from tests.support.labmesh import World, running
from tests.support.labtraffic import until

UPGRADES, TUNNELS, REQUESTS, BULK = 20, 1_000, 100_000, 2
PORT = 8091
QUIET_S, LOOK_S, KILLED_PATIENCE_S, RETIRE_PATIENCE_S = 10.0, 0.05, 60.0, 30.0
KILLED = 999
"""In the name of the agent that comes after those that were killed."""
LOOPBACK = "127.0.0.1"
SURVIVORS = (sys.executable, "-S", "-E", str(HERE / "survivors.py"))


Ways = tuple[tuple[str, str], ...]
"""Of connections: a client pod, and a server pod or an address."""
WITH_ENVOY: Ways = ((envoy_peer.OURS_ASKING, envoy_peer.SERVING), (envoy_peer.ASKING, LOOPBACK))


class Peers(NamedTuple):
    """Who talks to whom. `through`: the nodes whose agents are upgraded in turn, with the ways that go through them."""

    ways: Ways
    servers: tuple[str, ...]
    through: dict[str, Ways]
    killed: str
    """The node on which all of ztun is killed at the end."""


PEERS = {
    "ztun": Peers(CAPTURED, ("server-a", "server-b"), {"node-a": CAPTURED, "node-b": CAPTURED[:2]}, "node-b"),
    "envoy": Peers(
        WITH_ENVOY, (envoy_peer.SERVING, envoy_peer.OURS_SERVING), {"node-a": WITH_ENVOY}, "node-a"
    ),
}


def name(way: tuple[str, str]) -> str:
    return " to ".join(way)


@dataclass(slots=True)
class Crowds:
    """The connections that are to live on, by path; started one after the other, so that none meets the crowd."""

    world: World
    ways: Ways
    each: int
    _clients: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        for way in self.ways:
            client, server = way
            address = server if server == LOOPBACK else self.world.address(server)
            command = [*SURVIVORS, "live", address, str(PORT), str(self.each), str(BULK)]
            with entered(self.world.pod(client).netns):
                process = self._clients[name(way)] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the connections {name(way)} were not made")

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


@contextmanager
def lived(world: World, ways: Ways, tunnels: int) -> Iterator[Crowds]:
    crowds = Crowds(world, ways, tunnels // len(ways))
    try:
        crowds.start()
        yield crowds
    finally:
        crowds.kill()


def quiet(world: World, crowds: Crowds) -> Phase:
    phase = Phase("no upgrade")
    crowds.told()
    with loaded(world, crowds.ways) as load:
        time.sleep(QUIET_S)
        phase.add(crowds.told())
    phase.fresh = load.told
    return phase


def upgrade_in_turn(
    world: World,
    crowds: Crowds,
    options: argparse.Namespace,
    other: tuple[str, ...],
    tell: Callable[[str], None],
) -> tuple[Phase, dict[str, tuple[str, ...]]]:
    """The nodes in turn; every second upgrade of a node changes the version, back and forth. Also the last of each."""
    phase, peers = Phase("upgrades"), PEERS[options.peer]
    ours = dict.fromkeys(peers.through, world.mesh.ztun)
    with loaded(world, crowds.ways) as load:
        number = 0
        while number < options.upgrades or phase.requests + load.made() < options.requests:
            node = list(ours)[number % len(ours)]
            before = counters(world, node)
            change = "other options"
            if number // len(ours) % 2 == 0:
                ours[node] = other if ours[node] != other else ZTUN
                change = "other version" if ours[node] == other else "back"
            roll(world, node, ours[node], number)
            world.mesh.wait_ready(node)
            until(
                lambda node=node: not world.status(node)["retiring_workers"],
                "nothing is left of the workers before",
                RETIRE_PATIENCE_S,
            )
            phase.upgrades[change] = phase.upgrades.get(change, 0) + 1
            load.goes_on()
            after = counters(world, node)
            phase.went_back += [
                f"{node}, upgrade {number}: {name} {before[name]:g} -> {after[name]:g}"
                for name in COUNTERS
                if after[name] < before[name]
            ]
            phase.add(crowds.told())
            moved = hand_over_of(
                node, len(peers.through[node]) * (crowds.each + BULK), world.status(node)["hand_overs"]
            )
            phase.hand_overs.append(moved)
            tell(
                f"upgrade {number + 1}, {change}, {node}: handed over in {moved.took_s:.2f} s, "
                f"{phase.lost} lost, longest {phase.longest_word_s * 1e3:.0f} ms"
            )
            number += 1
    phase.fresh = load.told
    return phase, ours


def kill(world: World, crowds: Crowds, peers: Peers, ztun: tuple[str, ...]) -> tuple[Phase, float]:
    """All of ztun on one node, and the next start of the same version, which finds its programs there.

    The seconds from that until all it had was told of its end.
    """
    phase, node = Phase("all of ztun killed"), peers.killed
    cut = {name(way) for way in peers.through[node]}
    crowds.told()
    with loaded(world, crowds.ways) as load:
        world.kill_all(node)
        began_s = time.monotonic()
        start(world, node, ztun, KILLED)
        while time.monotonic() < began_s + KILLED_PATIENCE_S:
            told = crowds.told()
            phase.add(told)
            if not any(each["alive"] for path, each in told.items() if path in cut):
                break
            time.sleep(LOOK_S)
        took_s = time.monotonic() - began_s
        world.mesh.wait_ready(node)
        load.goes_on()
    phase.fresh = load.told
    return phase, took_s


def counters(world: World, node: str) -> dict[str, float]:
    return {name: world.metric(node, name) for name in COUNTERS}


def holdings(world: World, peers: Peers) -> dict[str, Holdings]:
    return {node: held(world, node) for node in peers.through}


def held(world: World, node: str) -> Holdings:
    processes = [
        psutil.Process(pid) for pid in (world.process(f"agent-{node}").pid, *world.workers(node).values())
    ]
    memory = sum(process.memory_full_info().pss for process in processes)
    return Holdings(memory / 1e6, sum(process.num_fds() for process in processes), len(processes))


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
    parser.add_argument("--peer", choices=list(PEERS), default="ztun", help="the other end; default ztun")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    return parser.parse_args(argv)


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load, peers = os.getloadavg()[0], PEERS[options.peer]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        version = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = stack.enter_context(running("s", directory, flags=FLAGS))
        for server in peers.servers:
            serve(world, server)
            command = [*SURVIVORS, "serve", str(PORT)]
            world.lab.processes.start_ready(
                f"survivors-{server}", world.pod(server).netns, command, timeout_s=START_TIMEOUT_S
            )
        if options.peer == "envoy":
            stack.enter_context(envoy_peer.peers(world, (APP_PORT, PORT)))
        tell("the mesh is there")
        crowds = stack.enter_context(lived(world, peers.ways, options.tunnels))
        tell("the connections are there")
        before = quiet(world, crowds)
        tell(table(before))
        then = holdings(world, peers)
        upgraded, ours = upgrade_in_turn(world, crowds, options, other_version(version), tell)
        now = holdings(world, peers)
        tell(table(upgraded))
        run = Run(before, upgraded, *kill(world, crowds, peers, ours[peers.killed]), (then, now))
    return concluded(run, load, options, tell)


def concluded(run: Run, load: float, options: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """The exit status."""
    samples = run.samples()
    targets = [target for target in report.targets() if target.bench == "survive"]
    figures = {phase.name: asdict(phase) for phase in run.phases} | {
        "peer": options.peer,
        "held": [{node: asdict(each) for node, each in held.items()} for held in run.held],
        "medians": report.medians(samples)["ztun"],
    }
    text = "\n".join(map(table, run.phases)) + f"\n\n{report.table(samples, targets)}"
    return conclude(text, figures, report.misses(samples, targets), load, options, tell)
