"""Who takes over and stands still is ended, and nobody else."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.run_lock import NAME, RunLock
from agent.standing_by import StandsBy
from agent.taker import ASK_EVERY_S, Overdue, Taker

LIMIT_S = 5.0
HOLDER = """
import fcntl, signal, sys
signal.signal(signal.SIGTERM, lambda *_: None)  # as an agent that hears it, and then drains
lock = open(sys.argv[1])
if sys.argv[2] == "locked":
    fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@dataclass
class Scene:
    """A stopped process that has the lock's file open, and one that stands by, at times and answers as they are set."""

    directory: Path
    child: subprocess.Popen[bytes]
    now_s: float = 100.0
    state: str = ""
    asked: list[float] = field(default_factory=list)

    def taker(self) -> Taker:
        taker = Taker.of(self.child.pid, LIMIT_S)
        assert taker is not None
        return Taker.read(json.loads(taker.written))

    def overdue(self, taker: Taker | None = None) -> Overdue:
        return Overdue(taker or self.taker(), self.directory, self.status, lambda: self.now_s)

    def status(self, directory: Path, patience_s: float) -> dict[str, object]:
        self.asked.append(self.now_s)
        return {"state": self.state} if self.state else {}

    def was_let_be(self) -> bool:
        """Asked last: it may go on, and comes to its own end."""
        self.child.send_signal(signal.SIGCONT)
        self.child.communicate(timeout=20)
        return self.child.returncode == 0


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / NAME).touch()
    command = (sys.executable, "-c", HOLDER, str(tmp_path / NAME), getattr(request, "param", "locked"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"\n"
            child.send_signal(signal.SIGSTOP)
            yield Scene(tmp_path, child)
        finally:
            child.kill()


def test_one_that_stands_still_is_ended_after_twice_its_time_and_leaves_the_lock(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    stands_by = StandsBy((), scene.overdue())
    scene.now_s += 2 * LIMIT_S - 0.1
    stands_by()
    assert not scene.asked
    pidfd = os.pidfd_open(scene.child.pid)
    try:
        scene.now_s += 0.1
        stands_by()
        assert scene.asked and select.select([pidfd], [], [], 20)[0]
    finally:
        os.close(pidfd)
    assert f"process {scene.child.pid} did not come to serve within 5 s" in caplog.text
    with RunLock(scene.directory):
        pass


@pytest.mark.parametrize("state", ["READY", "DEGRADED"])
def test_one_that_serves_is_let_be_from_then_on(scene: Scene, state: str) -> None:
    overdue, scene.state = scene.overdue(), state
    scene.now_s += 2 * LIMIT_S
    overdue()
    scene.state = ""
    scene.now_s += 100 * ASK_EVERY_S
    overdue()
    assert len(scene.asked) == 1 and scene.was_let_be()


@pytest.mark.parametrize("scene", ["open"], indirect=True)
def test_one_that_does_not_have_the_lock_is_let_be(scene: Scene) -> None:
    overdue = scene.overdue()
    for _ in range(3):
        scene.now_s += 2 * LIMIT_S
        overdue()
    assert len(scene.asked) == 3 and scene.was_let_be()


def test_another_of_the_same_number_is_let_be(scene: Scene) -> None:
    taker = scene.taker()
    overdue = scene.overdue(replace(taker, began=taker.began - 1))
    scene.now_s += 2 * LIMIT_S
    overdue()
    assert scene.asked and scene.was_let_be()


def test_one_that_is_not_seen_from_here_is_nobody() -> None:
    assert Taker.of(0, LIMIT_S) is None
    assert Taker.of(1 << 22, LIMIT_S) is None
