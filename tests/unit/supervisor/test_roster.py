"""Who serves which listeners, as workers come, stall and go: every owner is always served by someone alive."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.supervisor.roster import Grant, Release, Roster


def test_each_worker_gets_its_own_listeners() -> None:
    roster = Roster(2)
    assert roster.arrived(0) == [Grant(0, 0), Grant(1, 0)]
    assert roster.arrived(1) == [Grant(1, 1), Release(1, 0)]


def test_a_dead_workers_queue_is_served_by_a_live_one_and_handed_back() -> None:
    roster = Roster(2)
    roster.arrived(0)
    roster.arrived(1)
    assert roster.died(1) == [Grant(1, 0)]
    assert roster.arrived(1) == [Grant(1, 1), Release(1, 0)]


def test_an_adopted_worker_keeps_what_it_serves() -> None:
    roster = Roster(2)
    assert roster.arrived(0, frozenset({0})) == [Grant(1, 0)]
    assert roster.arrived(1, frozenset({1})) == [Release(1, 0)]


def test_a_stalled_queue_gets_a_second_server() -> None:
    roster = Roster(2)
    roster.arrived(0)
    roster.arrived(1)
    assert roster.stalled(0) == [Grant(0, 1)]
    assert roster.stalled(0) == [], "nobody is left to help"


@given(st.lists(st.tuples(st.sampled_from(["arrived", "died", "stalled"]), st.integers(0, 3)), max_size=40))
@settings(deadline=None)
def test_no_owner_is_ever_orphaned_while_a_worker_lives(events: list[tuple[str, int]]) -> None:
    roster = Roster(4)
    for event, slot in events:
        if event == "arrived" and slot in roster.alive:
            continue
        getattr(roster, event)(slot)
        for owner, slots in roster.serving.items():
            assert slots <= roster.alive
            assert slots or not roster.alive, owner
