"""The lab of chaos: a mesh of two nodes whose control plane is reached by a relay, its applications, its checkers.

Certificates live for a minute, so that each run renews them many times; the run directory of each node is a small disk
of its own. All of it is made in private namespaces (scripts/chaos), because faults take away what a machine has once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.lab.agents import CONTROL_PLANE_PORT, LabMesh
from agent.lab.blueprint import NODES
from agent.lab.topology import UPLINK_ADDRESSES, Topology
from tests.bench.plain_packets import PlainPackets
from tests.chaos.applications import DENIED_PATHS, LIVE_PORT, PATHS, VISIT_PORT, Applications
from tests.chaos.relay import Relay
from tests.chaos.verdict import Seen
from tests.chaos.watch import Watch
from tests.support.labmesh import ENROLLED, POD, World, policy_manifest, principal, running
from tests.support.labtraffic import until, wait_gone
from tests.support.wall_clock import Clock, ClockedMesh, built

ROOT = Path(__file__).parents[2]
PLANE = UPLINK_ADDRESSES["node-a"][0].partition("/")[0]
RELAY_PORT, LIAR_PORT = 15013, 15023
WORKER = b"agent.worker"
LIAR = (sys.executable, "-m", "tests.chaos.liar", f"{PLANE}:{LIAR_PORT}", f"{PLANE}:{CONTROL_PLANE_PORT}")
FLAGS = {
    "start-patience-s": "60",
    "secret-ttl-s": "60",
    "xds-address": f"{PLANE}:{RELAY_PORT}",
}
RUN_DIR_MB = 24
LOOK_S = 0.3
LASTING = (*ENROLLED, "spare-a")
"""Pods that are in the mesh from the beginning on."""
CHURNING = 50
"""Pods that come and go, every other one on the other node."""
SETTLED_S = 3.0
"""Words that are answered in this time are no longer held up by a fault."""


@dataclass(slots=True)
class Stage:
    """What faults act on. `backup`: the state directory of the control plane as it was before any pod was enrolled."""

    world: World
    relay: Relay
    applications: Applications
    watch: Watch
    patience: float
    backup: Path
    plain: list[PlainPackets]
    clocks: Mapping[str, Clock]
    rolled: int = 0
    _plain_before: int = 0

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.world.lab.nodes)

    @property
    def plane(self) -> psutil.Process | None:
        return self._living("control-plane")

    def control(self, node: str) -> psutil.Process | None:
        """The newest agent of a node, if it lives."""
        return self._living(f"agent-{node}")

    def workers(self, node: str) -> list[int]:
        """Their pids, asked of the kernel and not of an agent that may be stopped."""
        home = self.world.node(node).netns.stat().st_ino
        return [pid for pid in psutil.pids() if _is_worker(pid, home)]

    def processes(self, node: str) -> list[int]:
        control = self.control(node)
        return [*([control.pid] if control is not None else []), *self.workers(node)]

    def kill(self, *pids: int) -> None:
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        for pid in pids:
            wait_gone(pid)

    def start_agent(self, node: str) -> None:
        """Unless it runs: what a unit with Restart= does."""
        if self.control(node) is None:
            self.world.mesh.start_agent(self.world.node(node))

    def start_plane(self) -> None:
        if self.plane is None:
            self.world.mesh.start_control_plane()

    def started_again(self) -> list[str]:
        """Which control processes do not live, though nobody keeps them from it; started again, as a unit would."""
        gone = [node for node in self.nodes if self.control(node) is None]
        for node in gone:
            self.start_agent(node)
        return [f"the agent of {node}" for node in gone]

    def healed(self, since_s: float, seen: Seen) -> bool:
        """Whether both nodes are READY and each path has served a connection that began after `since_s`."""
        visits, _ = self.applications.visits()
        for path, rows in visits.items():
            seen.visits.setdefault(path, []).extend(rows)
        served = all(
            any(visit.began_s >= since_s and not visit.why for visit in seen.visits.get(path, ()))
            for path in PATHS
        )
        return served and self.watch.are_ready_since(since_s)

    def collect(self, since_s: float, seen: Seen, patience_s: float) -> None:
        """What was seen until all that began before `since_s` has come to an end."""
        deadline_s = time.monotonic() + patience_s
        while True:
            visits, oldest_s = self.applications.visits()
            for path, rows in visits.items():
                seen.visits.setdefault(path, []).extend(rows)
            lost, waits_s = self.applications.lost()
            for path, reasons in lost.items():
                seen.lost.setdefault(path, type(reasons)()).update(reasons)
            if (oldest_s >= since_s and waits_s < SETTLED_S) or time.monotonic() > deadline_s:
                break
            time.sleep(LOOK_S)
        for path, rows in self.applications.denied_visits().items():
            seen.denied_visits.setdefault(path, []).extend(rows)
        for who, size in self.applications.denied_bytes().items():
            seen.denied[who] = seen.denied.get(who, 0) + size
        plain = sum(packets.count for packets in self.plain)
        seen.plain += plain - self._plain_before
        self._plain_before = plain
        for node, looks in self.watch.taken().items():
            seen.looks.setdefault(node, []).extend(looks)

    def _living(self, name: str) -> psutil.Process | None:
        try:
            process = self.world.process(name)
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except (psutil.NoSuchProcess, IndexError):
            return None


def _is_worker(pid: int, home: int) -> bool:
    try:
        if WORKER not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return False
        return os.stat(f"/proc/{pid}/ns/net").st_ino == home
    except OSError:
        return False  # it has ended


def churning() -> str:
    """Their manifests."""
    return "".join(
        POD.format(
            name=f"churn-{number}",
            account="churn",
            node=NODES[number % 2],
            side=number % 2 + 1,
            low=100 + number // 2,
        )
        for number in range(CHURNING)
    )


@contextmanager
def staged(
    directory: Path, calm: int, every_s: float, patience: float, tell: Callable[[str], None]
) -> Iterator[Stage]:
    """The mesh with its applications, its policies in force, and every checker at work."""
    relays: list[Relay] = []
    clocks = {node: Clock(directory / f"clock-{node}") for node in NODES}
    library = built(directory)

    def prepare(lab: Topology) -> None:
        for node in lab.nodes:
            run_dir = LabMesh(lab).run_dir(node)
            run_dir.mkdir(mode=0o700)
            options = f"size={RUN_DIR_MB}m,mode=700"
            subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(run_dir)), check=True)
        relays.append(Relay(lab.nodes["node-a"].netns, (PLANE, RELAY_PORT), (PLANE, CONTROL_PLANE_PORT)))

    def make(lab: Topology, flags: dict[str, str]) -> LabMesh:
        return ClockedMesh(lab, flags, patience_s=90.0 * patience, clocks=clocks, library=library)

    with ExitStack() as stack:
        stack.callback(lambda: [relay.close() for relay in relays])
        world = stack.enter_context(
            running(
                "k",
                directory / "lab",
                flags=FLAGS,
                enrolled=False,
                more=churning(),
                prepare=prepare,
                make=make,
            )
        )
        backup = directory / "backup"
        shutil.copytree(world.mesh.state_dir, backup)
        applications = Applications(world, calm, every_s)
        stack.callback(applications.close)
        applications.serve()
        pods = [world.pod(name) for name in LASTING]
        for pod in pods:
            world.mesh.enroll(pod)
        world.mesh.wait_announced(*pods)
        _deny(world)
        world.lab.processes.start_ready(
            "liar",
            world.node("node-a").netns,
            [*LIAR, str(world.mesh.state_dir)],
            timeout_s=60 * patience,
        )
        tell("the mesh is there")
        plain = [PlainPackets(world.node("node-a").netns, port) for port in (LIVE_PORT, VISIT_PORT)]
        for packets in plain:
            stack.callback(packets.close)
        applications.visit()
        watch = stack.enter_context(Watch(world))
        yield Stage(world, relays[0], applications, watch, patience, backup, plain, clocks)


def _deny(world: World) -> None:
    """Returns when the policies are in force, one by identity and one by address."""
    path = world.mesh.manifests / "denied.yaml"
    outsider = f'[{{from: [{{source: {{ipBlocks: ["{world.address("outsider-b")}"]}}}}]}}]'
    text = policy_manifest("by-identity", principal("spare"), action="DENY")
    world.write(path, text + "---\n" + policy_manifest("by-address", outsider, action="DENY"))
    for each in DENIED_PATHS:
        until(
            lambda each=each: not world.is_served(each.client, world.address(each.server)),
            f"policy denies {each}",
        )
