"""Counts of pods over workers that come and go: a worker that ended takes none of them with it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agent.channel import Stats
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
    return SimpleNamespace(stats=Stats(None, 0, pods=[(ADDRESS, [accepted, 0, 0, 0, 0, 0], "")]))


def test_a_busy_worker_that_ends_does_not_make_a_pod_look_cut_off() -> None:
    node = Node()
    for _ in range(3):
        node.captured += 100
        node.workers = [worker(node.captured)]
        assert node.findings() == []
    node.check.ended(node.workers[0].stats)
    for accepted in (0, 5):
        node.captured += 5
        node.workers = [worker(accepted)]
        assert node.findings() == []


def test_counts_of_a_pod_that_left_are_forgotten_with_it() -> None:
    node = Node()
    node.workers = []
    node.check.ended(Stats(None, 0, pods=[(ADDRESS, [500, 0, 0, 0, 0, 0], "")]))
    pod = node.pods.pop(POD)
    assert node.findings() == []
    node.pods[POD] = pod
    for _ in range(4):
        node.captured += 10
        found = node.findings()
    assert found == ["its new connections are captured, but no worker accepts any"]


def test_handshakes_of_strangers_are_added_up_and_a_worker_of_another_build_counts_none() -> None:
    node = Node()
    for failed in range(0, 28, 4):
        rows = [(ADDRESS, [0] * 6, "")]
        node.workers = [
            SimpleNamespace(stats=Stats(None, 0, pods=rows, strangers=[(ADDRESS, failed)])),
            SimpleNamespace(stats=Stats(None, 0, pods=rows)),
            SimpleNamespace(stats=None),
        ]
        found = node.findings()
    assert len(found) == 1 and "handshake" in found[0]
