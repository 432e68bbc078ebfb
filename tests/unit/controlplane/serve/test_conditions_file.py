"""`--status-out` holds conditions as the API has them, with the time of each change, over restarts too."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.controlplane.serve.conditions_file import ConditionsFile
from agent.controlplane.state_dir import StateError
from agent.controlplane.translate.conditions import Condition, Conditions

START = datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)


def of(status: bool, reason: str = "Accepted") -> list[Conditions]:
    return [
        Conditions("AuthorizationPolicy", "demo", "p", (Condition("ZtunnelAccepted", status, reason, "why"),))
    ]


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def moment(path: Path) -> str:
    [item] = read(path)["items"]
    return str(item["status"]["conditions"][0]["lastTransitionTime"])


def test_it_is_a_list_that_kubectl_takes(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    ConditionsFile(path, lambda: START).write(of(True))
    assert read(path) == {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"namespace": "demo", "name": "p"},
                "status": {
                    "conditions": [
                        {
                            "type": "ZtunnelAccepted",
                            "status": "True",
                            "reason": "Accepted",
                            "message": "why",
                            "lastTransitionTime": "2026-11-30T01:02:03Z",
                        }
                    ]
                },
            }
        ],
    }
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_time_is_that_of_the_last_change_of_the_status(tmp_path: Path) -> None:
    path, clock = tmp_path / "status.json", Clock()
    file = ConditionsFile(path, clock)
    file.write(of(True))
    first = moment(path)
    file.write(of(True, "UnsupportedValue"))
    assert moment(path) == first, "another reason is no other status"
    file = ConditionsFile(path, clock)
    file.write(of(True))
    assert moment(path) == first, "a new control plane has read it"
    file.write(of(False))
    assert moment(path) > first
    file.write([])
    assert read(path)["items"] == []


def test_a_file_that_is_none_of_ours_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"kind": "Notes"}')
    with pytest.raises(StateError, match=r"notes.json is damaged \(want a List of objects"):
        ConditionsFile(path, lambda: START)


def test_where_it_cannot_be_written_that_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "status.json"
    file = ConditionsFile(path, lambda: START)
    path.mkdir()
    file.write(of(True))
    file.write(of(False))
    assert len([r for r in caplog.records if "--status-out" in r.message]) == 1
    path.rmdir()
    file.write(of(False))
    assert read(path)["items"]
