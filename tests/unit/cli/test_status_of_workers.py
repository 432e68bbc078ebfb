"""What `ztun status` says of workers that retire."""

from __future__ import annotations

from agent.cli.status import dead, retiring


def test_workers_of_before_are_named_with_what_keeps_them() -> None:
    answer = {
        "retiring_workers": [{"slot": 0, "pid": 7}, {"slot": 1, "pid": 8}, {"slot": 2, "pid": 9}],
        "hand_overs": [
            {"from_pid": 7, "left": {"it shakes hands": 2}},
            {"from_pid": 8, "left": {}},
        ],
    }
    assert list(retiring(answer)) == [
        "worker 0 (pid 7) retires: it has handed over, and drains 2 × it shakes hands",
        "worker 1 (pid 8) retires: it has handed over",
        "worker 2 (pid 9) retires: it serves until its successor does, or hands over to it",
    ]
    assert not list(retiring(dead("x"))) and not list(retiring({}))
