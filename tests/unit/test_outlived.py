"""Workers that outlive their agent: who is told, who leaves its container, and what is done where they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

import pytest

from agent import config
from agent.stopping import outlived
from agent.succession import unlike
from agent.supervisor.crew import Crew
from redirect import outlive

WITH = config.build({"succession_s": "90", "drain_deadline_s": "4"})
WITHOUT = config.build({})


@dataclass
class Link:
    """A worker that hears it, or does not."""

    pid: int
    failure: Exception | None = None
    told: list[tuple[float, float]] = field(default_factory=list)

    async def go_on(self, patience_s: float, drain_s: float) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append((patience_s, drain_s))


@dataclass
class Links:
    everyone: tuple[Link, ...]


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    pids: list[int] = []
    monkeypatch.setattr(outlive, "leave", pids.extend)
    return pids


def have_outlived(settings: config.Config, *links: Link) -> bool:
    return asyncio.run(outlived(cast(Crew, Links(links)), settings))


def test_each_knows_when_to_end_and_leaves_the_container(moved: list[int]) -> None:
    links = Link(5), Link(6)
    assert have_outlived(WITH, *links)
    assert [link.told for link in links] == [[(90.0, 4.0)], [(90.0, 4.0)]]
    assert moved == [5, 6]
    assert unlike(WITH) == ("pod_name",), "the next agent is another pod"


def test_one_that_does_not_hear_it_ends_with_the_container(
    moved: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert have_outlived(WITH, Link(5, TimeoutError()), Link(6))
    assert moved == [6]
    assert "does not hear that it shall serve on: no answer" in caplog.text


def test_where_nobody_hears_it_they_drain(moved: list[int]) -> None:
    assert not have_outlived(WITH, Link(5, TimeoutError()))


def test_where_they_cannot_leave_they_drain_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(pids: Collection[int]) -> None:
        raise PermissionError(13, "Permission denied", "/proc/1/root/sys/fs/cgroup/cgroup.procs")

    monkeypatch.setattr(outlive, "leave", leave)
    assert not have_outlived(WITH, Link(5))
    assert "cannot leave the control groups of this container, so they end with it" in caplog.text
    assert "/proc/1/root/sys/fs/cgroup/cgroup.procs" in caplog.text


def test_without_the_option_nobody_is_told_anything(moved: list[int]) -> None:
    link = Link(5)
    assert not have_outlived(WITHOUT, link)
    assert not link.told and not moved
    assert not unlike(WITHOUT)
