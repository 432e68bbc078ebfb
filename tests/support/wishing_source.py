"""A source of wishes that says what the test wants, and an enroller that follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from agent.enroll.source import Claim, Stance
from agent.enroll.wish import PodKey, WantedBy
from tests.support import mesh
from tests.support.enrolment import FakeKernel, World, where

ONE = mesh.workload("one", "10.0.0.1", service_account="one")
KEY = PodKey("apps", "one")


class Source:
    wanted_by = WantedBy.KUBERNETES
    knows_all = True
    problem = ""
    way_out = "Label it."
    turns = 0

    def __init__(self) -> None:
        self.now: dict[PodKey, Claim] | None = None

    def claims(self) -> Mapping[PodKey, Claim] | None:
        return self.now

    def subscribe(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def turned(self) -> None:
        self.turns += 1

    def wants(self, number: int = 1, uid: str = "u1", *, is_running: bool = False) -> None:
        self.now = {KEY: Claim(uid, Stance.WANTED, "labelled", where(number), is_running=is_running)}

    def refuses(self, uid: str = "u1", *, is_running: bool = False) -> None:
        self.now = {KEY: Claim(uid, Stance.UNWANTED, "unlabelled", is_running=is_running)}


def world(
    path: Path, source: Source, kernel: FakeKernel | None = None, *, keep_existing_s: float = 0.0
) -> World:
    made = World(path, ONE, kernel=kernel, sources=[source], keep_existing_s=keep_existing_s)
    made.start()
    return made
