"""Processes that are killed, stopped, hang, or are followed by another."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.bench.swaps import start
from tests.chaos.fault import Apply, Fault
from tests.chaos.losses import RESETS, Allowed, Reach
from tests.chaos.schedule import Span
from tests.chaos.stage import Stage
from tests.support.labtraffic import until

RESTART_S, STARTS_S = 45.0, 60.0
"""Heals within: a worker or a control process again; a whole node again."""
ROLL_PATIENCE_S = 90.0


@contextmanager
def kill_worker(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    pids = stage.workers(node)
    if pids:
        stage.kill(chances.choice(sorted(pids)))
    yield


@contextmanager
def kill_control(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    control = stage.control(node)
    if control is not None:
        stage.kill(control.pid)
    try:
        yield
    finally:
        stage.start_agent(node)


@contextmanager
def kill_plane(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    if stage.plane is not None:
        stage.kill(stage.plane.pid)
    try:
        yield
    finally:
        stage.start_plane()


@contextmanager
def kill_node(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    stage.kill(*stage.processes(node))
    try:
        yield
    finally:
        stage.start_agent(node)


@contextmanager
def kill_everything(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    plane = [stage.plane.pid] if stage.plane is not None else []
    stage.kill(*plane, *(pid for each in stage.nodes for pid in stage.processes(each)))
    try:
        yield
    finally:
        if chances.random() < 0.5:
            stage.start_plane()
        for each in stage.nodes:
            stage.start_agent(each)
        stage.start_plane()


@contextmanager
def roll(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """The agent is followed by one with another option, to which everything that is live moves."""
    stage.rolled += 1
    former, log = stage.control(node), stage.world.log(node)
    start(stage.world, node, stage.world.mesh.ztun, stage.rolled)
    yield
    if former is not None and former.is_running():
        patience_s = ROLL_PATIENCE_S * stage.patience
        until(lambda: log.lines("waiting until it ends") or not former.is_running(), "it waits", patience_s)
        with suppress(ProcessLookupError):
            os.kill(former.pid, signal.SIGTERM)
        until(
            lambda: not former.is_running() or former.status() == "zombie",
            "the one before ends",
            patience_s,
        )


def stop(whom: str) -> Apply:
    @contextmanager
    def stopped(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
        pids = _whom(stage, node, whom, chances)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # the agent may have lost patience with it
                    os.kill(pid, signal.SIGCONT)

    return stopped


def _whom(stage: Stage, node: str, whom: str, chances: random.Random) -> list[int]:
    control, workers = stage.control(node), sorted(stage.workers(node))
    match whom:
        case "worker":
            return [chances.choice(workers)] if workers else []
        case "control":
            return [control.pid] if control is not None else []
        case "plane":
            return [stage.plane.pid] if stage.plane is not None else []
        case _:
            return stage.processes(node)


NOTHING = Allowed(RESTART_S)
OF_A_WORKER = Allowed(RESTART_S, live=RESETS, new=RESETS, reach=Reach.NODE)
OF_A_NODE = Allowed(STARTS_S, live=RESETS, new=RESETS, reach=Reach.NODE)
OF_ALL = Allowed(STARTS_S, live=RESETS, new=RESETS, reach=Reach.ALL)

FAULTS = {
    "kill-worker": Fault("SIGKILL to a worker", Span(0.1, 3), OF_A_WORKER, kill_worker),
    "kill-control": Fault("SIGKILL to the agent's control process", Span(0.1, 5), NOTHING, kill_control),
    "kill-plane": Fault("SIGKILL to the control plane", Span(0.1, 8), NOTHING, kill_plane),
    "kill-node": Fault("SIGKILL to all of ztun on a node", Span(0.1, 5), OF_A_NODE, kill_node),
    "kill-everything": Fault(
        "SIGKILL to all of ztun on both nodes, and the control plane", Span(0.1, 3), OF_ALL, kill_everything
    ),
    "stop-worker": Fault("a worker stands still", Span(0.2, 4), NOTHING, stop("worker")),
    "hang-worker": Fault(
        "a worker stands still for longer than the agent waits", Span(12, 16), OF_A_WORKER, stop("worker")
    ),
    "stop-control": Fault(
        "the agent's control process stands still", Span(0.5, 12), NOTHING, stop("control")
    ),
    "stop-plane": Fault("the control plane stands still", Span(0.5, 12), NOTHING, stop("plane")),
    "stop-node": Fault("all of ztun on a node stands still", Span(0.2, 4), NOTHING, stop("node")),
    "roll": Fault(
        "the agent ends and the next one takes over what is live", Span(0, 0.1), Allowed(STARTS_S), roll, True
    ),
}
