"""Agents of a node as pods of a DaemonSet have them: each with mounts and a control group of its own, side by side.

They are started and ended as the kubelet does it: with a container's first process all that is in its control group is
killed. The machine's PIDs, its bpffs, /run/netns and the run directory are everybody's, as the manifests have it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.admin.client import AgentAbsent, AgentRefused
from agent.lab.agents import ZTUN
from tests.support.cgroups import hierarchy, own_name
from tests.support.labmesh import World
from tests.support.labtraffic import until, wait_gone

MOUNTS = ("unshare", "--mount", "--propagation", "slave")
SURGE = {"succession-s": "100", "start-patience-s": "60", "take-over-s": "60"}
"""What the chart says where both pods live for a while."""


@dataclass
class AgentPod:
    world: World
    node: str
    name: str
    group: Path
    pid: int

    @property
    def is_alive(self) -> bool:
        return bool(self.processes)

    @property
    def processes(self) -> list[int]:
        return [int(pid) for pid in (self.group / "cgroup.procs").read_text().split()]

    def is_in_charge(self) -> bool:
        try:
            if self.world.mesh.ask(self.node, "GET", "/settings")["pod_name"] != self.name:
                return False
            status = self.world.status(self.node)
        except (AgentAbsent, AgentRefused):
            return False
        return status["state"] == "READY" and not status["retiring_workers"]

    def serves(self) -> None:
        """Return when it is ready, and nothing is left of the one before."""
        until(self.is_in_charge, f"{self.name} serves")

    def end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        wait_gone(self.pid)
        self.kill()

    def kill(self) -> None:
        """The container, with all that is in it."""
        while pids := self.processes:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in pids:
                wait_gone(pid)


class AgentPods:
    def __init__(self, world: World, node: str) -> None:
        self._world, self._node = world, node
        self._flags = dict(world.mesh.flags)
        self._root = hierarchy() / own_name()
        self._all: list[AgentPod] = []

    def start(self, name: str, **options: str) -> AgentPod:
        group = self._root / name
        group.mkdir(parents=True)
        contained = ("sh", "-ec", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh", *MOUNTS, *ZTUN)
        mesh = self._world.mesh
        mesh.ztun, mesh.flags = contained, {**self._flags, **SURGE, "pod-name": name, **options}
        try:
            mesh.start_agent(self._world.node(self._node))
        finally:
            mesh.ztun, mesh.flags = ZTUN, self._flags
        pod = AgentPod(self._world, self._node, name, group, self._world.process(f"agent-{self._node}").pid)
        self._all.append(pod)
        return pod

    def close(self) -> None:
        for pod in self._all:
            pod.kill()
            pod.group.rmdir()
        if self._all:
            self._root.rmdir()


@contextmanager
def agent_pods(world: World, node: str) -> Iterator[AgentPods]:
    """In place of the node's agent, which is there again afterwards, without any worker of before."""
    pods = AgentPods(world, node)
    agent = world.process(f"agent-{node}")
    os.kill(agent.pid, signal.SIGTERM)
    wait_gone(agent.pid)
    try:
        yield pods
    finally:
        pods.close()
        world.restart(node)
