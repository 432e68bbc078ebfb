"""CPU time and memory of processes: against /proc text made by hand, and against a process that burns CPU."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.bench.accounting import TICKS_PER_S, children, cpu_s, pss_bytes, sleeps


def fake(proc: Path, pid: int, name: str, user: int, system: int, pss_kib: int) -> None:
    directory = proc / str(pid)
    directory.mkdir()
    before = " ".join(["1"] * 10)
    (directory / "stat").write_text(f"{pid} ({name}) S {before} {user} {system} 7 7 20 0\n")
    (directory / "smaps_rollup").write_text(
        f"0-1 ---p 00000000 [rollup]\nRss:   99 kB\nPss:   {pss_kib} kB\nPss_Dirty:  1 kB\n"
    )


def test_cpu_is_user_and_system_of_all_whatever_the_command_is_called(tmp_path: Path) -> None:
    fake(tmp_path, 5, "a) S 1 (b", 3, 4, 0)
    fake(tmp_path, 6, "envoy", 10, 20, 0)
    assert cpu_s([5, 6], tmp_path) == pytest.approx(37 / TICKS_PER_S)


def test_memory_is_pss_not_rss(tmp_path: Path) -> None:
    fake(tmp_path, 5, "a", 0, 0, 100)
    fake(tmp_path, 6, "b", 0, 0, 23)
    assert pss_bytes([5, 6], tmp_path) == 123 * 1024


def test_each_wait_of_any_thread_is_counted() -> None:
    before = sleeps([os.getpid()])
    for _ in range(20):
        time.sleep(0.001)
    assert sleeps([os.getpid()]) >= before + 20


def test_a_process_that_is_gone_is_an_error_not_a_zero(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cpu_s([5], tmp_path)


def test_the_kernel_agrees() -> None:
    before_s, own_before_s = cpu_s([os.getpid()]), time.process_time()
    while time.process_time() - own_before_s < 0.1:
        sum(range(1000))
    spent_s = time.process_time() - own_before_s
    assert cpu_s([os.getpid()]) - before_s == pytest.approx(spent_s, abs=0.05)
    assert pss_bytes([os.getpid()]) > 1 << 20


def test_children_are_those_of_children_too() -> None:
    """A shell that has a child, which says its own pid."""
    with subprocess.Popen(
        ["sh", "-c", "sh -c 'echo $$; read line'; exit 0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None and shell.stdin is not None
        inner = int(shell.stdout.readline())
        found = children(os.getpid())
        assert {shell.pid, inner} <= set(found) and os.getpid() not in found
        assert inner in children(shell.pid)
        shell.stdin.close()
