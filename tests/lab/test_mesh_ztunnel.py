"""An agent that is started as a stock ztunnel is: by its arguments, variables and files, between real namespaces."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.lab.agents import CONTROL_PLANE_PORT, ZTUN
from agent.ztunnel.rows import ROOT_CERT, TOKEN, ZDS_SOCKET
from tests.support.labmesh import World
from tests.support.labtraffic import until
from tests.support.zds_server import Named, ZdsServer

pytestmark = pytest.mark.kernel
NODE = "node-a"


@contextmanager
def mounted(files: dict[Path, Path], *directories: Path) -> Iterator[None]:
    """Files and directories where the DaemonSet mounts them. Whatever is made for them is taken away again."""
    made: list[Path] = []
    try:
        for directory in (*directories, *(target.parent for target in files)):
            for each in (*reversed(directory.parents), directory):
                if not each.exists():
                    each.mkdir()
                    made.append(each)
        for target, source in files.items():
            shutil.copy(source, target)
            made.append(target)
        yield
    finally:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()


def stock_environment(world: World) -> dict[str, str]:
    """What the chart says; the rest says which of the lab's agents it is, and that the control plane is ours."""
    control_plane = f"{world.node(NODE).addresses[0]}:{CONTROL_PLANE_PORT}"
    return {
        "CA_ADDRESS": control_plane,
        "XDS_ADDRESS": control_plane,
        "RUST_LOG": "info",
        "RUST_BACKTRACE": "1",
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
        "INPOD_ENABLED": "true",
        "TERMINATION_GRACE_PERIOD_SECONDS": "2",
        "POD_NAME": "ztunnel-x",
        "POD_NAMESPACE": "istio-system",
        "NODE_NAME": NODE,
        "INSTANCE_IP": str(world.node(NODE).addresses[0]),
        "SERVICE_ACCOUNT": "ztunnel",
        "ISTIO_META_ENABLE_HBONE": "true",
        "ZTUNNEL_CPU_LIMIT": "4",
        "ZTUN_INSTANCE": world.mesh.instance(NODE),
        "ZTUN_RUN_DIR": str(world.mesh.run_dir(NODE)),
        "ZTUN_REPORT_ENROLLED": "true",
    }


@pytest.fixture
def stock(world: World) -> Iterator[World]:
    """The agent of one node as the DaemonSet starts it, under an istio-cni that names one pod more."""
    files = {
        Path(TOKEN): world.mesh.state_dir / "tokens" / NODE,
        Path(ROOT_CERT): world.mesh.state_dir / "root.pem",
    }
    socket = Path(ZDS_SOCKET)
    for path in (*files, socket):
        if path.exists():
            pytest.skip(f"{path} is somebody's here")
    stop(world)
    with mounted(files, socket.parent):
        cni = ZdsServer(socket)
        cni.pods["u-spare"] = Named("u-spare", "spare-a", world.pod("spare-a").netns, "spare")
        cni.start()
        try:
            world.lab.processes.start(
                f"agent-{NODE}",
                world.node(NODE).netns,
                [*ZTUN, "proxy", "ztunnel"],
                env=stock_environment(world),
            )
            world.mesh.wait_ready(NODE)
            yield world
            cni.delete("u-spare")
            assert world.http(NODE, 15000, "/quitquitquit", method="POST") == (200, "shutdown now\n")
            assert world.process(f"agent-{NODE}").wait(30) == 0
            assert not cni.faults
        finally:
            cni.stop()
            socket.unlink(missing_ok=True)
    world.restart(NODE)


def stop(world: World) -> None:
    process = world.process(f"agent-{NODE}")
    process.terminate()
    process.wait(30)


def test_it_serves_as_ztunnel_does(stock: World) -> None:
    world = stock
    until(lambda: world.http(NODE, 15021, "/healthz/ready") == (200, "ready\n"), "readiness")
    log = world.log(NODE)
    assert world.ask("client-a", world.address("server-b")) == world.address("client-a")
    assert "spiffe://cluster.local/ns/demo/sa/client" in log.line(
        'direction="outbound"', ":15008", "connection complete"
    )
    assert world.ask("client-b", world.address("server-a")) == world.address("client-b")
    until(
        lambda: world.is_served("spare-a", world.address("server-b")),
        "the pod that istio-cni has named is open",
    )
    log.line('direction="outbound"', ":15008", "spiffe://cluster.local/ns/demo/sa/spare")
    status, metrics = world.http(NODE, 15020, "/stats/prometheus")
    assert status == 200 and 'istio_build{component="ztunnel"' in metrics
    status, page = world.http(NODE, 15000, "/status")
    found = json.loads(page)
    assert (status, found["node"], len(found["workers"])) == (200, NODE, 2)
    _, page = world.http(NODE, 15000, "/config_dump")
    up = {
        uid: each["info"] for uid, each in json.loads(page)["workloadState"].items() if each["state"] == "Up"
    }
    assert (up["u-spare"]["name"], up["u-spare"]["serviceAccount"]) == ("spare-a", "spare")
    said = world.mesh.log(f"agent-{NODE}").read_text()
    for name in ("RUST_BACKTRACE", "INPOD_ENABLED"):
        assert said.count(f"{name} has no effect") == 1, "workers and later starts do not repeat it"


def test_what_cannot_be_honoured_keeps_it_from_starting(world: World) -> None:
    environ = stock_environment(world) | {"COMPLIANCE_POLICY": "fips"}
    done = subprocess.run(
        [*ZTUN, "proxy", "ztunnel"], env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1 and "COMPLIANCE_POLICY" in done.stderr and "leave it out" in done.stderr
    assert world.status(NODE)["state"] == "READY", "who runs goes on"


def test_the_environment_is_shown_without_starting(world: World) -> None:
    environ = stock_environment(world) | {"ISTIO_BOGUS": "x"}
    done = subprocess.run(
        [*ZTUN, "proxy", "ztunnel", "--show"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert f"--node {NODE}" in done.stdout and "ISTIO_BOGUS has no effect" in done.stdout
