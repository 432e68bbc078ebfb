"""The next agent asks for the place of the one before, and goes back where it does not come to serve."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.admin.client import AgentGone, AgentRefused
from agent.app import in_time
from agent.config import build
from agent.standing_by import AGAIN_S, ASK_EVERY_S, Place, StandsBy

WITH = {"start_patience_s": "60", "take_over_s": "30", "run_dir": "/run/ztun/test", "pod_name": "next"}


@dataclass
class Before:
    """The agent that runs: what it does when it is asked, one after the other, and then steps aside."""

    does: list[Exception] = field(default_factory=list)
    asked: list[tuple[str, str, object]] = field(default_factory=list)
    now_s: float = 100.0

    def __call__(
        self, path: Path, method: str, target: str, body: dict[str, Any], *, patience_s: float
    ) -> object:
        self.asked.append((f"{method} {path}", target, body))
        if self.does:
            raise self.does.pop(0)
        return {}

    def place(self, **options: str) -> Place:
        return Place(build({**WITH, **options}), self, lambda: self.now_s)


def test_it_asks_until_it_is_heard_and_has_a_limit_from_then_on() -> None:
    before = Before([AgentGone("it begins")])
    place = before.place()
    place()
    place()
    assert before.asked == [
        ("POST /run/ztun/test/agent.sock", "/step-aside", {"pod": "next", "take_over_s": 30.0})
    ]
    assert place.limit_s is None, "nobody else would serve"
    before.now_s += ASK_EVERY_S
    place()
    place()
    assert len(before.asked) == 2 and place.limit_s == 30.0
    before.now_s += AGAIN_S
    place()
    assert len(before.asked) == 3, "it was late for the lock, and somebody has it"


def test_one_that_does_not_know_how_is_waited_for() -> None:
    before = Before([AgentRefused("no page /step-aside")])
    place = before.place()
    for _ in range(3):
        place()
        before.now_s += AGAIN_S
    assert len(before.asked) == 1 and place.limit_s is None and place.patience_s == 60.0


def test_without_the_option_nobody_is_asked() -> None:
    before = Before()
    before.place(take_over_s="0")()
    assert not before.asked


def test_who_stands_by_waits_for_ever_and_leaves_no_dead_children() -> None:
    worker = subprocess.Popen((sys.executable, "-c", "import sys; sys.stdin.read()"), stdin=subprocess.PIPE)
    stands_by = StandsBy((worker.pid, worker.pid + 1_000_000))
    stands_by()
    stands_by()
    assert stands_by.patience_s == float("inf") and Path(f"/proc/{worker.pid}").exists()
    assert worker.stdin is not None
    worker.stdin.close()
    asyncio.run(asyncio.wait_for(stands_by.see_off(), 30))
    assert not Path(f"/proc/{worker.pid}").exists()
    worker.wait(20)


def test_who_does_not_come_to_serve_ends_with_the_reason() -> None:
    async def scene(limit_s: float | None) -> None:
        await in_time(asyncio.sleep(0.01), limit_s)

    asyncio.run(scene(None))
    with pytest.raises(TimeoutError, match="within 0 s of taking over"):
        asyncio.run(scene(0))


def test_a_time_out_of_its_own_is_not_taken_for_that() -> None:
    async def late() -> None:
        raise TimeoutError("the loader")

    with pytest.raises(TimeoutError, match="the loader"):
        asyncio.run(in_time(late(), 30))
