"""Who counts as a worker that follows."""

from __future__ import annotations

from agent.proof.findings import Link
from agent.proof.workers import WorkerSeen, WorkerWatch


def test_workers_that_follow_are_well() -> None:
    watch = WorkerWatch()
    assert watch.update(7, [WorkerSeen(0, 11, 7), WorkerSeen(1, 12, 7)]) == []


def test_a_revision_on_its_way_is_not_held_against_a_worker_for_a_round() -> None:
    watch = WorkerWatch()
    watch.update(7, [WorkerSeen(0, 11, 7)])
    assert watch.update(8, [WorkerSeen(0, 11, 7)]) == []
    (finding,) = watch.update(9, [WorkerSeen(0, 11, 7)])
    assert finding.link is Link.STATE
    assert "worker 0 (pid 11) judges by revision 7 of the mesh state, control has 9" in finding.reason


def test_one_that_says_nothing_is_named_before_patience_with_it_ends() -> None:
    watch = WorkerWatch()
    (finding,) = watch.update(7, [WorkerSeen(0, 11, 7, silent_s=3.0), WorkerSeen(1, 12, 7, silent_s=2.0)])
    assert finding.link is Link.WORKER
    assert "worker 0 (pid 11) says nothing" in finding.reason
