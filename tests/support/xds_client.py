"""A discovery client over a state, a clock and waits under the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
    def __init__(
        self,
        endpoint: Endpoint,
        limit: int = 1_000_000,
        silent_s: float = SILENT_S,
        *,
        is_on_demand: bool = False,
    ) -> None:
        self.answers: asyncio.Queue[tuple[Sequence[str], object]] = asyncio.Queue()
        self.at_answers: Callable[[], object] = lambda: None
        self.applied = Applied()
        self.clock = FakeClock(1000.0)
        self.sleeps = Sleeps(self.clock, limit)
        self.counted = Counted()
        self.ups: list[float] = []
        node = make_node(ip="10.0.0.1", pod="ztun-x", namespace="istio-system", node_name="node-a")
        self.client = XdsClient(
            endpoint,
            XdsDelta(node, is_on_demand=is_on_demand),
            self.applied,
            clock=self.clock,
            rng=Random(1),
            sleep=self.sleeps,
            watch=self.counted,
            on_up=lambda: self.ups.append(self.clock.now),
            on_answer=lambda names: self.answers.put_nowait((list(names), self.at_answers())),
            silent_s=silent_s,
        )

    async def answered(self) -> tuple[Sequence[str], object]:
        """The next names that were answered, and what `at_answers` said then."""
        return await self.answers.get()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[XdsClient]:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.client.run())
            yield self.client
            task.cancel()
