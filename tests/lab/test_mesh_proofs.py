"""READY is observed: what is taken away from under a running agent shows in its status within seconds, by name.

Nothing here tells the agent that something has changed; it has to find out.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from agent.proof.prover import ROUND_S
from tests.support.labmesh import World
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel


def findings(world: World, node: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.status(node)["proof"]["findings"]
    return found


def is_ready(world: World, node: str) -> bool:
    return bool(world.status(node)["state"] == "READY")


def test_a_mesh_that_works_proves_it_round_after_round_and_leaves_no_line(world: World) -> None:
    world.ask("client-a", world.address("server-b"))
    ages: list[float] = []

    def age_s() -> float:
        ages.append(world.status("node-b")["proof"]["age_s"])
        return ages[-1]

    for number in range(2):
        until(lambda: age_s() < max(ages) / 2, f"round {number + 1}")
    assert max(ages) < ROUND_S * 2
    status = world.status("node-b")
    assert (status["state"], status["proof"]["findings"]) == ("READY", [])
    # The dials of the proofs are nobody's connections.
    assert not [line for line in world.log("node-b").lines() if "169.254.77.1" in line]


def test_listeners_that_no_worker_accepts_on_are_named(world: World) -> None:
    workers = world.workers("node-b")
    for pid in workers.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not is_ready(world, "node-b"), "somebody notices")
        reasons = [found["reason"] for found in findings(world, "node-b") if found["link"] == "listener"]
        assert any("nobody accepts on the hbone listener (port 15008)" in reason for reason in reasons)
        done = world.cli("status", node="node-b")
        assert done.returncode == 3
        assert "DEGRADED" in done.stdout and "nobody accepts" in done.stdout
    finally:
        for pid in workers.values():
            os.kill(pid, signal.SIGCONT)
    until(lambda: is_ready(world, "node-b"), "the workers are back")
    assert world.workers("node-b") == workers
