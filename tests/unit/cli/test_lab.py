"""`ztun lab` says what was there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.lab import down
from agent.lab.journal import Journal


def test_a_lab_that_never_was_is_not_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agent.lab.topology.Journal", lambda name, _: Journal(name, tmp_path))
    told = CliRunner().invoke(down, ["--name", "nolab"])
    assert (told.exit_code, told.output) == (0, "there is no lab nolab\n")
    Journal("nolab", tmp_path).claim()
    told = CliRunner().invoke(down, ["--name", "nolab"])
    assert (told.exit_code, told.output) == (0, "lab nolab is gone\n")
    assert not any(tmp_path.iterdir())
