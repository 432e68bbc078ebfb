"""`--host-traffic kubelet`, with a process of that name in a control group of its own: its probes pass STRICT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab.topology import Topology
from redirect.netns import entered
from tests.support.cgroups import hierarchy, own_name
from tests.support.labmesh import PORT, World, running
from tests.support.labtraffic import until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.long,
    pytest.mark.skipif(
        not (hierarchy() / "cgroup.procs").exists(), reason="no control groups of version 2 at /sys/fs/cgroup"
    ),
]
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""
PROBER = """
import socket, sys
for line in sys.stdin:
    try:
        with socket.create_connection((line.strip(), int(sys.argv[1])), 5) as sock:
            sock.sendall(b"probe\\n")
            print("answered" if sock.recv(64) else "closed", flush=True)
    except OSError as error:
        print(error, flush=True)
"""
"""Connects where it is told, a line each."""


class Kubelet:
    def __init__(self, node: Path, directory: Path, name: str) -> None:
        self.group = hierarchy() / f"{own_name()}-{name}"
        self.group.mkdir()
        binary = directory / "kubelet"
        if not binary.exists():
            binary.symlink_to(Path(sys.executable).resolve())
        with entered(node):
            self._process = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    f'echo $$ > {self.group}/cgroup.procs && exec "$0" "$@"',
                    binary,
                    "-ISc",
                    PROBER,
                    str(PORT),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def probe(self, address: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{address}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self.group.rmdir()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Kubelet]]:
    made: list[Kubelet] = []
    yield made
    for each in made:
        each.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, first: list[Kubelet]) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("k")

    def prepare(lab: Topology) -> None:
        first.append(Kubelet(lab.nodes["node-a"].netns, directory, "first"))

    with running("k", directory / "mesh", flags={"host-traffic": "kubelet"}, prepare=prepare) as made:
        yield made


def test_its_probes_pass_and_others_of_the_node_meet_policy(
    world: World, first: list[Kubelet], tmp_path: Path
) -> None:
    address = world.address("server-a")

    def passes() -> str:
        return str(world.status()["host_traffic"]["passes"])

    with world.manifest("strict", STRICT):
        until(lambda: not world.is_served("node-a", address), "STRICT is in force")
        kubelet = first[0]
        for name in ("second", "third"):  # it starts anew, in another group
            assert passes() == f"/{kubelet.group.name}"
            assert kubelet.probe(address) == kubelet.probe(world.address("server-a", 6)) == "answered"
            assert not world.is_served("node-a", address)
            first.remove(kubelet)
            kubelet.end()
            until(lambda: world.status()["state"] == "DEGRADED", "it is missed")
            assert passes() == "nobody's"
            assert "no process of the name `kubelet`" in " ".join(world.status()["reasons"])
            kubelet = Kubelet(world.node("node-a").netns, tmp_path, name)
            first.append(kubelet)
            until(lambda: passes() != "nobody's", "it is found")
        assert world.is_served("client-a", address)
        assert world.status()["state"] == "READY"
