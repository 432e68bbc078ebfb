"""`ztun status` says what the agent answers: beside reasons also what works only in part, which is no reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.admin import client
from agent.cli.status import dead, status


def answer(**changes: Any) -> dict[str, Any]:
    return {**dead(""), "state": "READY", "line": "READY pods=0/0", "reasons": [], **changes}


def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: dict[str, Any]) -> tuple[int, str]:
    monkeypatch.setattr(client, "ask", lambda *_, **__: told)
    done = CliRunner().invoke(status, ["--run-dir", str(tmp_path)])
    return done.exit_code, done.output


def test_what_is_limited_is_said_and_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = answer(limits=["no tcx (Linux 6.6): filters", "no queue moves"])
    assert shown(monkeypatch, tmp_path, told) == (
        0,
        "READY pods=0/0\n  limited: no tcx (Linux 6.6): filters\n  limited: no queue moves\n",
    )


def test_an_agent_of_an_older_version_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = answer()
    del told["limits"]
    assert shown(monkeypatch, tmp_path, told) == (0, "READY pods=0/0\n")
