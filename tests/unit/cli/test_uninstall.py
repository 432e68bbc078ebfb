"""What `ztun uninstall` says of an agent that comes back: it is a systemd unit's, or another waits for its end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import uninstall
from agent.cli.system_unit import unit_of
from agent.run_lock import NEXT, RunLock

UNIT = "ztun.service"
SAID_OF_UNIT = "`systemctl disable --now ztun.service`, then `ztun uninstall` once more"


@pytest.mark.parametrize(
    ("unit", "is_awaited", "status", "said"),
    [
        ("", False, 0, "nothing of instance ztun is left\n"),
        (UNIT, False, 1, SAID_OF_UNIT),
        ("", True, 1, "another agent starts here already"),
    ],
)
def test_one_that_is_started_again_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unit: str, is_awaited: bool, status: int, said: str
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    agent, waiting = RunLock(directory), os.open(directory / NEXT, os.O_RDONLY | os.O_CREAT, 0o600)
    agent.take()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(uninstall, "require_here", lambda _: None)
    monkeypatch.setattr(uninstall, "take_out", lambda *_: [])
    monkeypatch.setattr(uninstall, "unit_of", lambda _: unit)
    monkeypatch.setattr(uninstall, "ask_to_stop", lambda _: agent.close())
    try:
        if is_awaited:
            fcntl.flock(waiting, fcntl.LOCK_SH)
        done = CliRunner().invoke(uninstall.uninstall, ["--stop", "--run-dir", str(directory)])
    finally:
        os.close(waiting)
    assert done.exit_code == status and said in done.output
    assert ("is left" in done.output) == (status == 0)


@pytest.mark.parametrize(
    ("parent", "cgroup", "unit"),
    [
        (1, "0::/system.slice/ztun.service\n", UNIT),
        (1, "12:cpu:/\n1:name=systemd:/system.slice/ztun.service\n", UNIT),
        (77, "0::/system.slice/cron.service\n", ""),
        (1, "0::/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope\n", ""),
    ],
)
def test_the_unit_of_a_process_is_its_group_s(tmp_path: Path, parent: int, cgroup: str, unit: str) -> None:
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "stat").write_text(f"9 (a ) b) S {parent} 9 9 0 -1\n")
    (tmp_path / "9" / "cgroup").write_text(cgroup)
    assert unit_of(9, tmp_path) == unit
    assert unit_of(8, tmp_path) == ""
