"""READY is observed: what is taken away from under a running agent shows in its status within seconds, by name.

Nothing here tells the agent that something has changed; it has to find out.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from agent.lab import firewall
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


REJECTING = """
table inet hjproof {
  chain forward {
    type filter hook forward priority 0;
    tcp dport 15008 reject with tcp reset
  }
}
"""


def test_a_pod_whose_tunnels_all_fail_is_named_with_the_reason(world: World) -> None:
    # A connection to the same pod that is there already would be used again.
    world.kill(*world.workers("node-a").values())
    until(lambda: is_ready(world, "node-a"), "new workers")
    firewall.apply(world.node("node-b").netns, REJECTING)
    try:

        def is_found() -> list[dict[str, Any]]:
            assert not world.is_served("client-a", world.address("server-b"))
            return [found for found in findings(world, "node-a") if found["link"] == "peer"]

        (found,) = until(is_found, "every connection fails")
        assert found["pod"] == "demo/client-a"
        assert "every HBONE connection it needs fails" in found["reason"]
        assert "Connection refused" in found["reason"]
    finally:
        firewall.apply(world.node("node-b").netns, "delete table inet hjproof")
    until(lambda: world.is_served("client-a", world.address("server-b")), "the way is free")
    until(lambda: is_ready(world, "node-a"), "one that works is proof enough")
