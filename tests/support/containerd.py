"""A containerd on a node of a test, spoken to by CRI as a kubelet does it: real sandboxes, containers and CNI plugins.

Everything of it is the machine's: root, state and socket, network namespaces, CNI's directories, control groups.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.cluster.images import BUSYBOX, PAUSE, STAY, write_pause
from tests.support.kube_node import KubeNode

NEEDED = {"containerd": "containerd", "runc": "runc", "bridge": "containernetworking-plugins"}
"""Programs, and the packages of Debian that they are from."""
PLUGINS, NEWEST = Path("/usr/lib/cni"), Path("/var/cache/ztun/cni")
"""The CNI project's: of Debian 12, and what scripts/cni-build makes."""
CONFIG = f"""\
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  disable_tcp_service = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
"""
SOCKET = "/run/containerd/containerd.sock"
TIMEOUT_S = 60.0
RECORDER = "recorder"
RECORDED = "/run/recorded"
RECORDER_SOURCE = f"""\
#!/usr/bin/python3 -ISs
import json, os, sys
command, config = os.environ["CNI_COMMAND"], json.load(sys.stdin)
with open("{RECORDED}", "a") as out:
    row = [command, os.environ.get("CNI_CONTAINERID"), os.environ.get("CNI_NETNS"), "prevResult" in config]
    out.write(json.dumps(row) + "\\n")
if command == "ADD":
    json.dump(config["prevResult"], sys.stdout)
"""
"""A CNI plugin that notes what runtimes say, and does nothing."""


def missing() -> str:
    """The packages without which there is no containerd; empty when they are there."""
    absent = {
        package
        for program, package in NEEDED.items()
        if shutil.which(program) is None and not (PLUGINS / program).exists()
    }
    if not BUSYBOX.exists():
        absent.add("busybox-static")
    return ", ".join(sorted(absent))


class SandboxFailed(Exception):
    """The runtime's words, as they are in the pod's events."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One pod. `config`: as it was asked for, which CRI wants again for each container."""

    id: str
    address: str
    config: Any


class Containerd:
    """`entrypoint`: what every sandbox does from its first moment on. The image is Debian's busybox."""

    def __init__(self, node: KubeNode, entrypoint: Sequence[str] = STAY) -> None:
        self._node = node
        # protoc is called here and now: nothing that is generated has to be kept in step.
        self._messages, services = grpc.protos_and_services("tests/support/cri.proto")
        write_pause(node.inside("/var/tmp/pause.tar"), entrypoint)
        machine = node.machine
        machine.write("/etc/containerd/ztun.toml", CONFIG)
        machine.write(f"/opt/cni/bin/{RECORDER}", RECORDER_SOURCE)
        machine.run("chmod", "755", f"/opt/cni/bin/{RECORDER}")
        self.start()
        machine.run("ctr", "-n", "k8s.io", "image", "import", "/var/tmp/pause.tar")
        self._channel = grpc.insecure_channel(f"unix://{node.inside(SOCKET)}")
        self._runtime = services.RuntimeServiceStub(self._channel)

    def start(self) -> None:
        self._node.machine.start("containerd", "containerd", "-c", "/etc/containerd/ztun.toml")
        self._node.until(
            lambda: "Server" in self._node.machine.run("ctr", "version", check=False), "containerd"
        )

    def close(self) -> None:
        self._channel.close()

    def run(self, name: str, uid: str, namespace: str = "demo", group: str = "") -> Sandbox:
        """A sandbox, as for a pod that the API has. `group`: the pod's control group, else as with cgroupfs.

        Raises SandboxFailed.
        """
        messages = self._messages
        group = group or f"kubepods/besteffort/pod{uid}"
        config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            hostname=name,
            log_directory=f"/var/log/pods/{namespace}_{name}_{uid}",
            labels={
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            linux=messages.LinuxPodSandboxConfig(cgroup_parent=f"/{self._node.machine.cgroup}/{group}"),
        )
        self._node.machine.run("mkdir", "-p", config.log_directory)
        try:
            made = self._runtime.RunPodSandbox(
                messages.RunPodSandboxRequest(config=config), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise SandboxFailed(error.details()) from error
        status = self._runtime.PodSandboxStatus(
            messages.SandboxRequest(pod_sandbox_id=made.pod_sandbox_id), timeout=TIMEOUT_S
        )
        return Sandbox(made.pod_sandbox_id, status.status.network.ip, config)

    def run_container(self, sandbox: Sandbox, *command: str, name: str = "main") -> str:
        """A container of busybox in a pod; its id."""
        messages = self._messages
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=name),
            image=messages.ImageSpec(image=PAUSE),
            command=command,
            log_path=f"{name}.log",
        )
        request = messages.CreateContainerRequest(
            pod_sandbox_id=sandbox.id, config=config, sandbox_config=sandbox.config
        )
        made = self._runtime.CreateContainer(request, timeout=TIMEOUT_S)
        start = messages.StartContainerRequest(container_id=made.container_id)
        self._runtime.StartContainer(start, timeout=TIMEOUT_S)
        return str(made.container_id)

    def execute(self, container: str, *command: str) -> tuple[int, str]:
        """Exit status and output of a command in a container."""
        request = self._messages.ExecSyncRequest(container_id=container, cmd=command, timeout=20)
        done = self._runtime.ExecSync(request, timeout=TIMEOUT_S)
        return int(done.exit_code), done.stdout.decode() + done.stderr.decode()

    def stop(self, sandbox: Sandbox) -> None:
        self._runtime.StopPodSandbox(
            self._messages.SandboxRequest(pod_sandbox_id=sandbox.id), timeout=TIMEOUT_S
        )

    def remove(self, sandbox: Sandbox) -> None:
        self._runtime.RemovePodSandbox(
            self._messages.SandboxRequest(pod_sandbox_id=sandbox.id), timeout=TIMEOUT_S
        )

    def network(self) -> str:
        """The network configuration that it uses, as it tells."""
        status = self._runtime.Status(self._messages.StatusRequest(verbose=True), timeout=TIMEOUT_S)
        return str(status.info["cniconfig"])

    def recorded(self, sandbox: Sandbox) -> list[tuple[str, bool, bool]]:
        """What plugins were told of a pod: the command, whether with a namespace, whether with a result before."""
        path = self._node.inside(RECORDED)
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [
            (command, bool(netns), has_result)
            for command, container, netns, has_result in rows
            if container == sandbox.id
        ]
