"""Workers that are left to the next agent: until they end, or somebody else answers for them, or nobody does."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.run_lock import RunLock
from agent.succession import LeftServing, on_duty_in

LISTENS = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens where a worker does, until it hears the end of its input."""
    process = subprocess.Popen(
        (sys.executable, "-c", LISTENS, str(tmp_path / "worker-0-1.sock")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    with process.stdout:
        yield process
    process.kill()
    process.wait(20)
    if process.stdin is not None:
        process.stdin.close()


def test_it_stays_until_they_have_ended(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    left = LeftServing([worker.pid])
    assert worker.stdin is not None
    worker.stdin.close()
    left.see_off(tmp_path)
    # Without a wait of ours: it has ended.
    assert os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_it_ends_those_that_nobody_answers_for(
    tmp_path: Path, worker: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    LeftServing([worker.pid]).see_off(tmp_path, 0.0)
    assert worker.wait(20) == -9
    assert "the agent that waited is gone: ending 1 worker" in caplog.text


def test_it_leaves_those_that_the_next_agent_has(
    tmp_path: Path, worker: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with RunLock(tmp_path):
        LeftServing([worker.pid]).see_off(tmp_path, 0.0)
    assert worker.poll() is None
    assert "1 worker serves the next agent" in caplog.text


def test_who_has_ended_before_is_not_waited_for(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait(20)
    LeftServing([worker.pid]).see_off(tmp_path)


def test_who_has_become_the_next_agents_is_not_waited_for(
    tmp_path: Path, worker: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """It finds them of its own build and options: they stay, and there is nothing to wait for."""
    caplog.set_level(logging.INFO)
    answers = iter([(), (worker.pid + 1,), (1, worker.pid)])
    with RunLock(tmp_path):
        LeftServing([worker.pid]).see_off(tmp_path, on_duty=lambda directory: next(answers))
    assert worker.poll() is None and next(answers, None) is None
    assert "1 worker serves the next agent" in caplog.text


def test_an_agent_that_does_not_answer_has_nobody(tmp_path: Path) -> None:
    assert not on_duty_in(tmp_path)
