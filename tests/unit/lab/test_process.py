"""Ending a lab's processes waits for those that live, and for nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from agent.lab.journal import Journal
from agent.lab.process import Processes, began

FOREVER_S = 3600.0
UNREAPED = """
import subprocess, sys
child = subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal("x", tmp_path)
    made.claim()
    return made


def test_one_that_nobody_reaps_has_ended(journal: Journal) -> None:
    """As in a container whose first process reaps nobody; a wait for it would outlast the test."""
    with subprocess.Popen(
        [sys.executable, "-c", UNREAPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        journal.note_process("x", process.pid, began(process.pid) or 0)
        Processes(journal).end_all([], grace_s=FOREVER_S)
        assert process.status() == psutil.STATUS_ZOMBIE
        parent.communicate("")


def test_one_that_does_not_end_when_asked_is_killed(journal: Journal) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    processes = Processes(journal)
    started = processes.start_ready("x", Path("/proc/self/ns/net"), [sys.executable, "-c", code])
    processes.end_all([], grace_s=0.05)
    assert started.returncode == -9


def test_one_is_ended_also_where_the_clock_was_set_since(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Processes(journal)
    started = processes.start("x", Path("/proc/self/ns/net"), ["sleep", "1000"])
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: 0.0)
    try:
        Processes(journal).end_all([], grace_s=FOREVER_S)
        assert started.poll() == -15
    finally:
        started.kill()
