"""Workers that outlive their agent, or its options: who is told, who leaves its container, and what if they cannot."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from agent import config
from agent.stopping import outlived
from agent.succession import unlike
from agent.supervisor.crew import Crew
from agent.supervisor.recruiter import Recruiter
from redirect import outlive

AGENT = Path(__file__).parents[2] / "agent"
OF_WORKERS = (
    AGENT / "config.py",
    AGENT / "worker.py",
    *(
        path
        for top in ("net", "proxy", "handover", "telemetry", "state", "dns")
        for path in (AGENT / top).rglob("*.py")
    ),
)
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
    assert unlike(WITH) - unlike(WITHOUT) == {"pod_name"}, "the next agent is another pod"


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


def test_workers_serve_on_where_only_what_the_next_agent_waits_for_is_another() -> None:
    """By its version a worker is known to be one's own."""
    waiting = config.build({"start_patience_s": "60", "take_over_s": "30", "load_timeout_s": "90"})
    versions = {
        said: Recruiter(Path("/run/x"), config.as_texts(settings), {}, ignored=unlike(settings)).version
        for said, settings in (
            ("before", WITHOUT),
            ("waits", waiting),
            ("closes sooner", config.build({"pool_idle_s": "9"})),
        )
    }
    assert versions["before"] == versions["waits"] != versions["closes sooner"]


def test_what_a_worker_reads_is_not_passed_over() -> None:
    """Whatever of the options is read where the code of workers has them, and by what Config itself makes of some."""
    having = [path for path in OF_WORKERS if "Config" in path.read_text()]
    assert {"worker.py", "dataplane.py", "config.py"} <= {path.name for path in having}
    nodes = (node for path in having for node in ast.walk(ast.parse(path.read_text())))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert {"pool_idle_s", "crl_path", "log_format", "run_dir", "workers"} <= read
    assert not unlike(WITH) & read
