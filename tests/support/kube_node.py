"""One node of a cluster on a machine of its own: a Kubernetes API, control plane and agent, and nothing else yet.

The API is the fake one and speaks from this process inside the machine's network; everything else is a process in the
machine, started as on a node: control groups, /proc, /run and the CNI's directories are the machine's.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.admin import client
from agent.admin.client import AgentAbsent, AgentRefused
from agent.lab.agents import ZTUN
from redirect.netns import entered
from tests.cluster.machine import Machine
from tests.support import kube
from tests.support.kube import TOKEN, FakeApi

ROOT = Path(__file__).parents[2]
NODE, SYSTEM = "n1", "ztun-system"
AGENT_TOKEN = "of-the-agent"
PATIENCE_S = 120.0
CONTROL_PLANE = "127.0.0.1:15012"
MODE = "istio.io/dataplane-mode"
EXCLUDED = "kube-system"


class KubeNode:
    """`machine` with everything on it. `flags`: more options of the agent."""

    def __init__(self, directory: Path, flags: dict[str, str] | None = None) -> None:
        (directory / "api").mkdir(parents=True)
        self.api = FakeApi(directory / "api")
        self.machine = Machine("node", directory)
        self._flags = flags or {}

    def boot(self) -> None:
        self.machine.boot()
        for name, source in (("ca.crt", self.api.ca_file), ("token", self.api.token_file)):
            self.machine.write(f"/etc/ztun/{name}", source.read_text())
        self.start_api()
        self.machine.write("/etc/ztun/kubeconfig", json.dumps(self._kubeconfig()))
        self.machine.write("/etc/ztun/agent-token", AGENT_TOKEN)
        self.machine.run("sh", "-c", "cp -n /usr/lib/cni/* /opt/cni/bin/")
        self.machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.api.reviews[AGENT_TOKEN] = {
            "authenticated": True,
            "audiences": ["istio-ca"],
            "user": {
                "username": f"system:serviceaccount:{SYSTEM}:ztun-agent",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["ztun-agent-1"],
                    "authentication.kubernetes.io/pod-uid": ["u-agent"],
                },
            },
        }
        own = kube.pod(
            "ztun-agent-1", SYSTEM, node=NODE, address="192.0.2.1", uid="u-agent", hostNetwork=True
        )
        for raw in (kube.namespace(SYSTEM), kube.namespace(EXCLUDED), own):
            self.api.create(raw)

    def start_api(self) -> None:
        with entered(self.inside_net()):
            self.api.start()

    def start_control_plane(self) -> None:
        self.machine.start(
            "control-plane", *ZTUN, "control-plane", "--kubernetes",
            "--kubeconfig=/etc/ztun/kubeconfig", f"--namespace={SYSTEM}", f"--listen={CONTROL_PLANE}",
        )  # fmt: skip
        self.until(lambda: any(True for _ in self.api.all("configmaps")), "the control plane's root")
        (roots,) = self.api.all("configmaps")
        self.machine.write("/etc/ztun/root.pem", roots["data"]["root-cert.pem"])

    def start_agent(self) -> None:
        """Returns when it is ready."""
        flags = {
            "node": NODE,
            "pod-source": "kubernetes",
            "kubeconfig": "/etc/ztun/kubeconfig",
            "xds-address": CONTROL_PLANE,
            "root-cert": "/etc/ztun/root.pem",
            "token-file": "/etc/ztun/agent-token",
            "pod-name": "ztun-agent-1",
            "pod-namespace": SYSTEM,
            "cni-conf-dir": "/etc/cni/net.d",
            "drain-deadline-s": "1",
            "start-patience-s": "30",
        } | self._flags
        arguments = (f"--{name}={value}" for name, value in flags.items())
        self.machine.start("agent", *ZTUN, "agent", *arguments)
        self.until(lambda: self.state() == "READY", "the agent is ready")

    def agent_pid(self) -> int:
        """As this process sees it: that of the control process."""
        return self._pid("agent")

    def agent_cpu_ms(self) -> float:
        """What the control process has used so far."""
        return _cpu_ms(self.agent_pid())

    def control_plane_cpu_ms(self) -> float:
        return _cpu_ms(self._pid("control-plane"))

    def _pid(self, command: str) -> int:
        (pid,) = (
            int(status.parent.name)
            for status in Path("/proc").glob("[0-9]*/status")
            if self._runs(status.parent, command)
        )
        return pid

    def _runs(self, process: Path, command: str) -> bool:
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            # Of others' processes even root may not be told the namespaces: asked of ours alone.
            return (
                b"agent.cli.entry" in arguments
                and arguments[len(ZTUN)] == command.encode()
                and (process / "ns/net").stat().st_ino == self.inside_net().stat().st_ino
            )
        except (FileNotFoundError, ProcessLookupError):
            return False

    def inside_net(self) -> Path:
        """The network namespace of the machine."""
        return Path(f"/proc/{self.machine.pid}/ns/net")

    # -- what is asked

    def inside(self, path: str) -> Path:
        """A path of the machine, as seen from here."""
        return Path(f"/proc/{self.machine.pid}/root{path}")

    def ask(self, target: str) -> Any:
        return client.ask(self.inside("/run/ztun/ztun/agent.sock"), "GET", target)

    def status(self) -> dict[str, Any]:
        answer = self.ask("/status")
        assert isinstance(answer, dict)
        return answer

    def state(self) -> str:
        try:
            return str(self.status()["state"])
        except (AgentAbsent, AgentRefused) as error:
            return str(error)

    def served(self) -> set[str]:
        """NAMESPACE/NAME of the pods that are captured and served; nobody while the agent starts."""
        try:
            return {row["pod"] for row in self.status()["pods"]}
        except AgentAbsent:
            return set()

    def until(self, holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Raises AssertionError with what the agent says."""
        ends_s = time.monotonic() + patience_s
        while not holds():
            assert time.monotonic() < ends_s, f"not within {patience_s:g} s: {what}; {self._last_words()}"
            time.sleep(0.02)

    def _last_words(self) -> str:
        said = [self.state()]
        for name in ("boot", "control-plane", "agent"):
            log = self.machine.logs / f"{name}.log"
            said += [f"{name}: {line}" for line in log.read_text().splitlines()[-15:]] if log.exists() else []
        return "\n".join(said)

    # -- pods in the API

    def announce(self, name: str, namespace: str = "demo", account: str = "default", **more: Any) -> str:
        """A pod as the kubelet sees it before its sandbox is there; its uid."""
        uid = str(uuid.uuid4())
        made = kube.pod(
            name, namespace, node=NODE, uid=uid, phase="Pending", serviceAccountName=account, **more
        )
        self.api.create(made)
        return uid

    def has_started(self, name: str, address: str, namespace: str = "demo") -> None:
        """What the kubelet writes when it has."""
        status: kube.Raw = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        self.api.change("pods", name, namespace, status=status)

    def says(self, name: str, namespace: str = "demo") -> str | None:
        """What the agent has written on a pod in the API: whether it is in the mesh."""
        annotations: dict[str, str] = self.api.get("pods", name, namespace)["metadata"]["annotations"]
        return annotations.get("ambient.istio.io/redirection")

    def remove(self) -> None:
        self.api.stop()
        self.machine.remove()

    def _kubeconfig(self) -> kube.Raw:
        cluster = {
            "server": f"https://127.0.0.1:{self.api.port}",
            "certificate-authority": "/etc/ztun/ca.crt",
        }
        assert self.api.tokens == {TOKEN}
        return {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"tokenFile": "/etc/ztun/token"}}],
        }


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) * 1000 / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(directory: Path, conflist: str = "", **flags: str) -> Iterator[KubeNode]:
    """A node that is ready for pods of namespace demo, which is in the mesh. `conflist`: its CNI configuration."""
    node = KubeNode(directory, {name.replace("_", "-"): value for name, value in flags.items()})
    try:
        node.boot()
        node.api.create(kube.namespace("demo", {MODE: "ambient"}))
        if conflist:
            node.machine.write("/etc/cni/net.d/10-pods.conflist", conflist)
        node.start_control_plane()
        node.start_agent()
        yield node
    finally:
        node.remove()
