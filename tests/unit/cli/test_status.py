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


class Clock:
    """Time that passes where somebody sleeps."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_who_waits_longer_is_told_for_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock()

    def ask(*_: Any, **__: Any) -> dict[str, Any]:
        if clock.now_s < 1:
            return answer(state="DEAD", reasons=["it begins"])
        reasons = ["web.yaml: refused"] if clock.now_s < 5 else ["no certificate"]
        return answer(state="DEGRADED", reasons=reasons, line=f"DEGRADED at {clock.now_s}")

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr("agent.cli.status.time", clock)
    done = CliRunner().invoke(status, ["--run-dir", str(tmp_path), "--wait", "10"])
    assert done.exit_code == 3
    told = done.stderr.splitlines()
    assert [line.partition("READY; ")[2] for line in told] == [
        "it is DEGRADED: web.yaml: refused",
        "it is DEGRADED: no certificate",
    ], "once each, and not at once"
    assert told[0].startswith("waiting, 8 s at most, until the agent")
    assert "waiting" not in done.stdout
