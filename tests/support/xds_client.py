"""A discovery client over a state, a clock and waits under the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from random import Random

from agent.rpc.endpoint import Endpoint
from agent.rpc.xds_client import SILENT_S, XdsClient
from agent.wire.xds_delta import Received, XdsDelta, make_node
from tests.support.clock import FakeClock, Sleeps
from tests.support.xds import PATIENCE_S


@dataclass
class Applied:
    """A state that takes everything but the names in `refuse`."""

    resources: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)

    async def __call__(self, received: Received) -> Mapping[str, str]:
        for resource in received.updates:
            if resource.name not in self.refuse:
                self.resources[resource.name] = resource.body
        for name in received.removed:
            self.resources.pop(name, None)
        return {r.name: self.refuse[r.name] for r in received.updates if r.name in self.refuse}


@dataclass
class Counted:
    messages: list[tuple[str, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def message(self, type_url: str, body_bytes: int) -> None:
        self.messages.append((type_url, body_bytes))

    def terminated(self, reason: str) -> None:
        self.reasons.append(reason)


class Rig:
    def __init__(self, endpoint: Endpoint, limit: int = 1_000_000, silent_s: float = SILENT_S) -> None:
        self.applied = Applied()
        self.clock = FakeClock(1000.0)
        self.sleeps = Sleeps(self.clock, limit)
        self.counted = Counted()
        self.ups: list[float] = []
        node = make_node(ip="10.0.0.1", pod="ztun-x", namespace="istio-system", node_name="node-a")
        self.client = XdsClient(
            endpoint,
            XdsDelta(node),
            self.applied,
            clock=self.clock,
            rng=Random(1),
            sleep=self.sleeps,
            watch=self.counted,
            on_up=lambda: self.ups.append(self.clock.now),
            silent_s=silent_s,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[XdsClient]:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.client.run())
            yield self.client
            task.cancel()
