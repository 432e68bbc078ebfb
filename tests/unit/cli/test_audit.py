"""What people read of an audit."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli import audit

OURS = {"id": 7, "name": "to_pod", "tag": "0" * 16, "by": "tcx", "is_ours": True}
OTHER = {"id": 0, "name": "u32", "tag": "", "by": "clsact", "is_ours": False}
DRIFT = {
    "part": "program",
    "pod": "demo/a",
    "interface": "veth1",
    "reason": "from_pod is not attached",
    "remedy": "wait",
    "is_mendable": True,
}


def answer(**changes: Any) -> dict[str, Any]:
    hook = {"interface": "veth1", "hook": "egress", "programs": [OURS]}
    return {"desired_by": "agent", "interfaces": 1, "drift": [], "hooks": [hook], **changes}


def test_nothing_to_say_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    audit.show(answer())
    assert capsys.readouterr().out == "nothing differs from what the agent wants; captured interfaces: 1\n"


def test_what_differs_is_a_row_and_programs_of_others_are_named_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hooks = [{"interface": "veth1", "hook": "egress", "programs": [OURS, OTHER]}]
    audit.show(answer(drift=[DRIFT], hooks=hooks, desired_by="maps"))
    head, row, order, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["PART", "POD", "INTERFACE", "REASON", "REMEDY"]
    assert row.split()[:3] == ["program", "demo/a", "veth1"]
    assert order == "veth1 egress, in this order: to_pod 7 (ours, tcx), u32 (somebody else's, clsact)"
    assert last == "1 thing differs from what the maps say (no agent answers); captured interfaces: 1"
