"""One agent per run directory: the lock is its, also where the file is removed and made again."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from agent.run_lock import NAME, NEXT, AlreadyRuns, RunLock


def taken(directory: Path) -> RunLock:
    lock = RunLock(directory)
    lock.take()
    return lock


def test_the_second_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = taken(tmp_path)
    with pytest.raises(AlreadyRuns, match=f"another agent runs on {tmp_path}"):
        taken(tmp_path)
    first.close()
    taken(tmp_path).close()
    assert (tmp_path / NAME).exists()


def test_whoever_removes_the_directory_leaves_no_lock(tmp_path: Path) -> None:
    lock = taken(tmp_path)
    lock.remove()
    assert not list(tmp_path.iterdir())


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before the other removed it, locked after: the next one would open a new file and lock that."""
    former = taken(tmp_path)
    flock = fcntl.flock

    def removed_meanwhile(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        former.remove()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    lock = taken(tmp_path)
    assert (tmp_path / NAME).exists()
    with pytest.raises(AlreadyRuns):
        taken(tmp_path)
    lock.close()


def test_waiting_ends_when_the_agent_does_or_patience_does(tmp_path: Path) -> None:
    first, now = taken(tmp_path), [0.0]

    def sleeping(then: Callable[[], None] = lambda: None) -> Callable[[float], None]:
        def sleep(seconds: float) -> None:
            now[0] += seconds
            then()

        return sleep

    with pytest.raises(AlreadyRuns):
        RunLock(tmp_path).wait(1.0, lambda: now[0], sleeping())
    assert now[0] >= 1.0
    lock = RunLock(tmp_path)
    lock.wait(1.0, lambda: now[0], sleeping(first.close))
    lock.close()


def test_an_agent_waits_for_the_one_before_it_when_it_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = taken(tmp_path)
    with pytest.raises(AlreadyRuns), RunLock(tmp_path):
        pass

    def start() -> None:
        with RunLock(tmp_path, 60):
            pass

    waiting = Thread(target=start)
    waiting.start()
    try:
        deadline_s = time.monotonic() + 20
        while "waiting until it ends" not in caplog.text:
            assert time.monotonic() < deadline_s, "it does not say that it waits"
            time.sleep(0.01)
        assert waiting.is_alive()
        assert first.is_awaited
        assert "stop it" not in caplog.text, "it is to end by itself"
    finally:
        first.close()
        waiting.join(20)
    assert not waiting.is_alive()
    last = taken(tmp_path)
    assert not last.is_awaited, "nobody waits any more"
    last.remove()
    assert not list(tmp_path.iterdir())


def test_who_only_waits_to_take_things_away_follows_nobody(tmp_path: Path) -> None:
    first = taken(tmp_path)
    with pytest.raises(AlreadyRuns):
        RunLock(tmp_path).wait(0.1)
    assert not first.is_awaited and not (tmp_path / NEXT).exists()
    first.close()
