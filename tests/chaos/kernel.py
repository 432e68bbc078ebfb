"""What is taken away beneath a running agent: pins, the bpffs, names and devices of private namespaces; and churn."""

from __future__ import annotations

import itertools
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pyroute2 import IPRoute

from agent.admin.client import AgentAbsent, AgentRefused
from agent.lab.blueprint import LabError
from agent.lab.topology import PodPlace
from redirect import pins as pinning
from redirect.layout import GUARDS
from redirect.netns import entered, path_of
from redirect.pins import Pins
from redirect.reconcile import Redirection
from tests.chaos.applications import PATHS, VISIT_PORT
from tests.chaos.fault import Fault
from tests.chaos.losses import Allowed, Loss, Reach
from tests.chaos.schedule import Span
from tests.chaos.stage import CHURNING, LASTING, Stage
from tests.support.attached import guards_in
from tests.support.labtraffic import until
from tests.support.redirect_lab import remove_pins

HEALS_S = 30.0
STARTS_S = 60.0
NOTHING = Allowed(HEALS_S)
SHUT = frozenset({Loss.RESET, Loss.SILENT, Loss.REFUSED})
CLOSED = Allowed(STARTS_S, live=SHUT, new=SHUT, reach=Reach.ALL)
CLOSED_NODE = Allowed(STARTS_S, live=SHUT, new=SHUT, reach=Reach.NODE)
RETRY_S = 0.3
SPEAKS_S = 5.0
HANDS = 4
"""Pods that come or go at once."""


def _pins(stage: Stage, node: str) -> Pins:
    return Pins(stage.world.mesh.instance(node), stage.world.mesh.run_dir(node))


def _guarded(stage: Stage, *nodes: str) -> None:
    """Those that were captured just now have no guard yet."""
    for node in nodes:
        many = sum(stage.world.pod(name).node == node for name in LASTING)
        home = stage.world.node(node).netns
        until(
            lambda home=home, many=many: guards_in(home) >= many * len(GUARDS), "pods have guards", STARTS_S
        )


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
    _guarded(stage, node)
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
    _guarded(stage, *stage.nodes)
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
    """Many pods of both nodes come into the mesh, some at a time, speak by it, and go out of it, again and again."""
    is_over = threading.Event()
    servers = [stage.world.address(path.server) for path in PATHS]
    pods = [stage.world.pod(f"churn-{number}") for number in range(CHURNING)]
    hands = [
        threading.Thread(target=_churn, args=(stage, pods[at::HANDS], servers, is_over))
        for at in range(HANDS)
    ]
    for each in hands:
        each.start()
    try:
        yield
    finally:
        is_over.set()
        for each in hands:
            each.join()


def _churn(stage: Stage, pods: Sequence[PodPlace], servers: Sequence[str], is_over: threading.Event) -> None:
    mesh = stage.world.mesh
    for pod, server in zip(itertools.cycle(pods), itertools.cycle(servers)):
        if is_over.is_set():
            return
        try:
            mesh.enroll(pod)
            _speak(pod, server)
            mesh.unenroll(pod)
        except (AgentAbsent, AgentRefused, LabError):
            is_over.wait(RETRY_S)  # another fault keeps the agent from it


def _speak(pod: PodPlace, server: str) -> None:
    """What is said in clear would be seen between the nodes; whether it is served is for others to tell."""
    with entered(pod.netns), socket.socket() as sock:
        # Nothing is left to be said when the pod is out of the mesh again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        sock.settimeout(SPEAKS_S)
        with suppress(OSError):
            sock.connect((server, VISIT_PORT))
            sock.sendall(b"one of many")
            sock.recv(1)


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
    "churn": Fault(
        "50 pods of both nodes come into the mesh, speak, and leave it again", Span(4, 15), NOTHING, churn
    ),
}
