"""The order in which serving ends: what pods have just opened comes back to this node before its listeners close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from agent.enroll.kernel import KernelSide
from agent.model.listener import OUTBOUND
from agent.stopping import drain
from agent.supervisor.crew import Crew


@dataclass
class Node:
    """Kernel side, redirection, crew and queues at once. A connection of a pod is `open_for` so many looks yet."""

    open_for: int
    events: list[str] = field(default_factory=list)

    async def run(self, ask: Callable[[Node], int | None]) -> int | None:
        return ask(self)

    def clear_listeners(self, *only: str) -> None:
        self.events.append(f"closed {' '.join(only) or 'all'}")

    def half_open(self) -> int:
        self.open_for -= 1
        if not self.open_for:
            self.events.append("it has come back")
        return int(self.open_for > 0)

    @property
    def queues(self) -> Node:
        return self

    are_empty = True

    async def drain(self, deadline_s: float) -> None:
        self.events.append("workers drain")


def stopped(node: Node) -> list[str]:
    asyncio.run(drain(cast(KernelSide, node), cast(Crew, node), 1.0))
    return node.events


def test_what_pods_have_opened_comes_back_first() -> None:
    outbound = f"closed {OUTBOUND.name}"
    assert stopped(Node(3)) == [outbound, "it has come back", "closed all", "workers drain"]


def test_who_never_answers_holds_up_no_stop() -> None:
    assert stopped(Node(1 << 30)) == [f"closed {OUTBOUND.name}", "closed all", "workers drain"]
