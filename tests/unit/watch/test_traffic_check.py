"""Counts of pods over workers that come and go: a worker that ended takes none of them with it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agent.model.address import parse_ip
from agent.watch.checks import TrafficCheck

POD, ADDRESS = "demo/client", "10.0.0.1"


class Node:
    """A captured pod whose connections workers accept; the clock is by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.captured = 0
        self.workers: list[Any] = []
        pod = SimpleNamespace(key=POD, place=SimpleNamespace(ifindex=7), addresses=(parse_ip(ADDRESS),))
        self.pods: dict[str, Any] = {POD: pod}
        kernel, crew, captures = SimpleNamespace(run=self.run), Crew(self), SimpleNamespace(pods=self.pods)
        self.check = TrafficCheck(kernel, crew, captures, lambda: self.now_s)  # type: ignore[arg-type]

    async def run(self, _: object) -> dict[int, Any]:
        return {7: SimpleNamespace(outbound=self.captured, inbound=0)}

    def findings(self) -> list[str]:
        """One round, two seconds after the one before."""
        self.now_s += 2.0
        return [finding.reason for finding in asyncio.run(self.check())]


class Crew:
    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def everyone(self) -> list[Any]:
        return self._node.workers


def worker(accepted: int) -> Any:
    return SimpleNamespace(stats=SimpleNamespace(pods=[(ADDRESS, [accepted, 0, 0, 0, 0, 0, 0], "")]))


def test_a_busy_worker_that_ends_does_not_make_a_pod_look_cut_off() -> None:
    node = Node()
    for _ in range(3):
        node.captured += 100
        node.workers = [worker(node.captured)]
        assert node.findings() == []
    node.check.ended(node.workers[0].stats.pods)
    for accepted in (0, 5):
        node.captured += 5
        node.workers = [worker(accepted)]
        assert node.findings() == []


def test_counts_of_a_pod_that_left_are_forgotten_with_it() -> None:
    node = Node()
    node.workers = []
    node.check.ended([(ADDRESS, [500, 0, 0, 0, 0, 0, 0], "")])
    pod = node.pods.pop(POD)
    assert node.findings() == []
    node.pods[POD] = pod
    for _ in range(4):
        node.captured += 10
        found = node.findings()
    assert found == ["its new connections are captured, but no worker accepts any"]
