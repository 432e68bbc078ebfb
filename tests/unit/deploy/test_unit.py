"""The systemd unit: systemd takes it as it is, its options are the agent's, and its command is found."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import config
from tests.support.systemd_unit import UNIT, flags, settings

COMMAND = "/usr/local/bin/ztun"


def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    """Its command stands in for by one that is there: that is all it cannot know."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(COMMAND, sys.executable))
    done = subprocess.run(
        [verify, "verify", "--recursive-errors=no", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_its_options_are_the_agents() -> None:
    program, what, *_ = shlex.split(settings()["ExecStart"][0])
    assert (program, what) == (COMMAND, "agent")
    built = config.build({name.replace("-", "_"): value for name, value in flags().items()})
    assert built.succession_s == built.start_patience_s == 60.0


def test_workers_outlive_the_agent() -> None:
    """What would end them, or have nobody find them again."""
    unit = settings()
    assert unit["KillMode"] == ["process"] and unit["OOMPolicy"] == ["continue"]
    assert not unit.keys() & {
        "RuntimeDirectory",
        "PrivateTmp",
        "PrivateMounts",
        "ProtectSystem",
        "ProtectHome",
    }
