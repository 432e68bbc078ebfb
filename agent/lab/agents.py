"""A mesh inside a lab: the embedded control plane, one agent per node, enrolment of the lab's pods.

Everything runs as a user would run it, by the `ztun` command inside the node's network namespace; nothing
here reaches into the processes. The topology must be up; `Topology.down` ends and removes all of it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import config
from agent.admin import client
from agent.admin.client import AgentAbsent, AgentRefused
from agent.lab.blueprint import NODES, LabError
from agent.lab.naming import instance_of, state_dir_of
from agent.lab.topology import NodePlace, PodPlace, Topology
from redirect import child
from redirect.netns import entered
from redirect.reconcile import Redirection

CONTROL_PLANE_PORT = 15012
PATIENCE_S = 90.0
ENROL_TIMEOUT_S = 20.0
POLL_S = 0.02
LOAD_TIMEOUT_S = 3600.0
"""The longest that an agent takes for --load-timeout-s."""
ZTUN = tuple(child.command("agent.cli.entry"))


@dataclass(slots=True)
class LabMesh:
    """Control plane and agents of one lab. `flags` are extra flags for every agent, `ztun` the command that runs.

    `patience_s`: what each may take until it is ready.
    """

    topology: Topology
    flags: Mapping[str, str] = field(default_factory=dict)
    ztun: tuple[str, ...] = ZTUN
    patience_s: float = PATIENCE_S
    monotonic: Callable[[], float] = time.monotonic
    generation: int = 0

    @property
    def manifests(self) -> Path:
        """The directory the control plane reads: drop a policy here."""
        return self.topology.journal.directory / "manifests"

    @property
    def state_dir(self) -> Path:
        journal = self.topology.journal.directory
        return state_dir_of(journal.name, journal.parent)

    def instance(self, node: str) -> str:
        """Name of a node's agent on this machine."""
        return instance_of(self.topology.name, node)

    def run_dir(self, node: str) -> Path:
        return self.topology.journal.directory / f"run-{node}"

    @property
    def load_flags(self) -> Mapping[str, str]:
        """An agent's, for a lab with a patience of its own. One of before `--against` of the bench does not know it."""
        if self.patience_s == PATIENCE_S:
            return {}
        return {"load-timeout-s": f"{min(self.patience_s, LOAD_TIMEOUT_S):g}"}

    def check_name(self) -> None:
        """Whether agents can be called after this lab. Raises LabError."""
        for node in NODES:
            try:
                config.build({"instance": self.instance(node)})
            except config.ConfigError as error:
                raise LabError(
                    f"lab name {self.topology.name!r} is too long for the agents of its nodes: 10 characters at most"
                ) from error

    def log(self, name: str) -> Path:
        return self.topology.journal.logs / f"{name}.log"

    def start(self, manifests: Path) -> None:
        """Start the control plane on a copy of the manifests, then the agents; returns when all are ready."""
        shutil.copytree(manifests, self.manifests, dirs_exist_ok=True)
        self.start_control_plane()
        self.start_agents()

    def start_agents(self) -> None:
        """One on each node; returns when all are ready. Raises LabError."""
        agents = {node.name: self.start_agent(node) for node in self.topology.nodes.values()}
        for name, agent in agents.items():
            self.wait_ready(name, agent)

    def down(self) -> None:
        """End every process, take ztun out of the kernel, remove the lab. Safe at any time, also after a crash."""
        self.topology.end_processes()
        for node, path in self.topology.node_namespaces():
            if path.exists():
                with entered(path):
                    Redirection(self.instance(node), self.run_dir(node)).uninstall()
        self.topology.down()

    def start_control_plane(self) -> None:
        node = self.topology.nodes["node-a"]
        address = f"{node.addresses[0]}:{CONTROL_PLANE_PORT}"
        command = (
            *self.ztun,
            "control-plane",
            "--manifests",
            str(self.manifests),
            "--state-dir",
            str(self.state_dir),
        )
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        self.topology.processes.start_ready(
            "control-plane", node.netns, [*command, "--listen", address], timeout_s=self.patience_s
        )

    def start_agent(self, node: NodePlace) -> subprocess.Popen[bytes]:
        """Start the node's agent; `wait_ready` tells when it serves."""
        token = self.state_dir / "tokens" / node.name
        if not token.exists():
            self._issue_token(node, token)
        control_plane = self.topology.nodes["node-a"].addresses[0]
        flags = {
            "node": node.name,
            "instance": self.instance(node.name),
            "run-dir": str(self.run_dir(node.name)),
            "xds-address": f"{control_plane}:{CONTROL_PLANE_PORT}",
            "root-cert": str(self.state_dir / "root.pem"),
            "token-file": str(token),
            "drain-deadline-s": "1",
            **self.load_flags,
            **self.flags,
        }
        arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
        return self.topology.processes.start(
            f"agent-{node.name}", node.netns, [*self.ztun, "agent", *arguments]
        )

    def _issue_token(self, node: NodePlace, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        command = [
            *self.ztun,
            "control-plane",
            "token",
            "--node",
            node.name,
            "--state-dir",
            str(self.state_dir),
        ]
        process = self.topology.processes.start(
            f"token-{node.name}", node.netns, [*command, "--out", str(path)]
        )
        if process.wait() != 0:
            raise LabError(f"no token for {node.name}: see {self.log(f'token-{node.name}')}")

    def ask(self, node: str, method: str, target: str, body: dict[str, Any] | None = None) -> Any:
        """What the node's agent answers on its admin socket; of a page that lists something, its rows."""
        answer = client.ask(self.run_dir(node) / "agent.sock", method, target, body)
        name = target.strip("/")
        # An agent of before `--against` of the bench may answer with the bare list.
        return answer[name] if isinstance(answer, dict) and answer.keys() == {name} else answer

    def status(self, node: str) -> dict[str, Any]:
        answer = self.ask(node, "GET", "/status")
        assert isinstance(answer, dict)
        return answer

    def wait_ready(self, node: str, agent: subprocess.Popen[bytes] | None = None) -> None:
        """Return when it says READY. Raises LabError with its last words; at once if `agent`, its process, ends."""
        began = self.monotonic()
        last = "it does not answer"
        while (waited_s := self.monotonic() - began) < self.patience_s:
            if agent is not None and agent.poll() is not None:
                words = self.log(f"agent-{node}").read_text(errors="replace").strip().splitlines()
                raise LabError(f"the agent of {node} ended: {words[-1] if words else 'it said nothing'}")
            try:
                status = self.status(node)
            except (AgentAbsent, AgentRefused) as error:
                last = str(error)
            else:
                if status["state"] == "READY":
                    return
                last = f"{status['state']}: {'; '.join(status['reasons'])}"
            # An answer costs a slow machine as much as the work that is waited for.
            time.sleep(max(POLL_S, waited_s / 50))
        raise LabError(f"the agent of {node} is not ready: {last}; see {self.log(f'agent-{node}')}")

    def enroll(self, pod: PodPlace, *, keep_existing: bool = False) -> dict[str, Any]:
        """Enrol a pod as `ztun enroll` does; returns once it is served. Raises LabError when it is not in time."""
        body = {
            "namespace": pod.namespace,
            "name": pod.name,
            "netns": str(pod.netns),
            "keep_existing": keep_existing,
            "wait_s": ENROL_TIMEOUT_S,
        }
        answer = self.ask(pod.node, "POST", "/enroll", body)
        assert isinstance(answer, dict)
        if "waiting" in answer:
            raise LabError(f"not enrolled within {ENROL_TIMEOUT_S:g} s: {answer['waiting']}")
        return answer

    def unenroll(self, pod: PodPlace, *, drain_s: float = 0.0) -> int:
        """Let a pod go as `ztun unenroll --drain` does; how many connections were reset when the time was over."""
        body = {"namespace": pod.namespace, "name": pod.name, "drain_s": drain_s}
        answer = self.ask(pod.node, "POST", "/unenroll", body)
        return int(answer["reset"])

    def wait_announced(self, *pods: PodPlace) -> None:
        """Return when every agent has heard that these pods are reached by HBONE."""
        wanted = {pod.key for pod in pods}
        deadline = self.monotonic() + self.patience_s
        for node in self.topology.nodes:
            while not wanted <= set(self.ask(node, "GET", "/announced")):
                if self.monotonic() > deadline:
                    raise LabError(f"{node} does not hear of {sorted(wanted)} as enrolled")
                time.sleep(POLL_S)
