"""What is taken away beneath a running agent: pins, the bpffs, names and devices of private namespaces; and churn."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from agent.admin.client import AgentAbsent, AgentRefused
from agent.lab.blueprint import LabError
from redirect import pins as pinning
from redirect.netns import entered, path_of
from redirect.pins import Pins
from redirect.reconcile import Redirection
from tests.chaos.fault import Fault
from tests.chaos.losses import Allowed, Loss, Reach
from tests.chaos.schedule import Span
from tests.chaos.stage import Stage
from tests.support.redirect_lab import remove_pins

HEALS_S = 30.0
STARTS_S = 60.0
GUARDED_S = 4.0
"""Two turns of the agent: pods that were captured just now have no guard yet."""
NOTHING = Allowed(HEALS_S)
SHUT = frozenset({Loss.RESET, Loss.SILENT, Loss.REFUSED})
CLOSED = Allowed(STARTS_S, live=SHUT, new=SHUT, reach=Reach.ALL)
CLOSED_NODE = Allowed(STARTS_S, live=SHUT, new=SHUT, reach=Reach.NODE)
RETRY_S = 0.3


def _pins(stage: Stage, node: str) -> Pins:
    return Pins(stage.world.mesh.instance(node), stage.world.mesh.run_dir(node))


@contextmanager
def no_pins(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    root = _pins(stage, node).root
    if root.exists():
        remove_pins(root)
    yield


@contextmanager
def no_bpffs(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """umount --lazy /sys/fs/bpf, of both nodes; afterwards there is an empty one again."""
    subprocess.run(("umount", "--lazy", str(pinning.BPFFS)), check=True)
    try:
        yield
    finally:
        subprocess.run(("mount", "-t", "bpf", "bpf", str(pinning.BPFFS)), check=True)


@contextmanager
def no_pins_no_control(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """Nothing holds the links of a node then: its workers live, or die as well."""
    time.sleep(GUARDED_S)
    control = stage.control(node)
    pids = stage.processes(node) if chances.random() < 0.5 else [control.pid] if control is not None else []
    stage.kill(*pids)
    remove_pins(_pins(stage, node).root)
    try:
        yield
    finally:
        stage.start_agent(node)


@contextmanager
def no_bpffs_no_control(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """The same by umount --lazy, of both nodes."""
    time.sleep(GUARDED_S)
    stage.kill(*(control.pid for each in stage.nodes if (control := stage.control(each)) is not None))
    try:
        with no_bpffs(stage, node, chances):
            yield
    finally:
        for each in stage.nodes:
            stage.start_agent(each)


@contextmanager
def no_name(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """ip netns del, of one of the two private namespaces."""
    sides = Redirection(stage.world.mesh.instance(node), stage.world.mesh.run_dir(node)).private_namespaces
    name = chances.choice(sides).name
    subprocess.run(("umount", "--lazy", str(path_of(name))), check=False)
    path_of(name).unlink(missing_ok=True)
    yield


@contextmanager
def no_device(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """ip link del, of one of the two inner devices."""
    with entered(stage.world.node(node).netns), IPRoute() as ip:
        found = [
            link for link in ip.get_links() if str(link.get("ifname")).startswith(("ztun-mo", "ztun-mi"))
        ]
        if found:
            ip.link("del", index=chances.choice(found)["index"])
    yield


@contextmanager
def churn(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """A pod comes into the mesh and goes out of it, again and again."""
    is_over = threading.Event()
    pod, mesh = stage.world.pod("spare-b"), stage.world.mesh

    def run() -> None:
        while not is_over.is_set():
            try:
                mesh.enroll(pod)
                mesh.unenroll(pod)
            except (AgentAbsent, AgentRefused, LabError):
                is_over.wait(RETRY_S)  # another fault keeps the agent from it

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


FAULTS = {
    # Alone, these: pins and the control process hold the programs, and with neither pods are closed.
    "no-pins": Fault("all that is pinned is removed", Span(0.1, 4), NOTHING, no_pins, is_alone=True),
    "no-bpffs": Fault("the bpffs is unmounted", Span(0.5, 4), NOTHING, no_bpffs, is_alone=True),
    "no-pins-no-control": Fault(
        "all that is pinned is removed, and nobody holds it",
        Span(0.5, 4),
        CLOSED_NODE,
        no_pins_no_control,
        True,
    ),
    "no-bpffs-no-control": Fault(
        "the bpffs is unmounted, and no agent lives", Span(0.5, 4), CLOSED, no_bpffs_no_control, True
    ),
    "no-name": Fault("the name of a private namespace is removed", Span(0.1, 4), NOTHING, no_name),
    "no-device": Fault("a device of a private namespace is deleted", Span(0.1, 4), NOTHING, no_device),
    "churn": Fault("a pod comes into the mesh and leaves it again", Span(2, 10), NOTHING, churn),
}
