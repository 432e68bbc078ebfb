"""Who serves which listeners, as workers come, stall and go: every owner is always served by someone alive."""

from __future__ import annotations

from hypothesis import given
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


def test_adopted_workers_keep_what_they_serve_and_nobody_takes_it_for_a_moment() -> None:
    assert Roster(2).adopted({0: {0}, 1: {1}}) == []
    assert Roster(2).adopted({0: {0, 1}, 1: {1}}) == [Release(1, 0)]
    assert Roster(2).adopted({1: {1}}) == [Grant(0, 1)]
    assert Roster(2).adopted({0: {0, 7}}) == [Grant(1, 0)], "an owner that is no more"


def test_a_stalled_queue_gets_a_second_server() -> None:
    roster = Roster(2)
    roster.arrived(0)
    roster.arrived(1)
    assert roster.stalled(0) == [Grant(0, 1)]
    assert roster.stalled(0) == [], "nobody is left to help"


@given(
    st.lists(
        st.tuples(st.sampled_from(["arrived", "died", "stalled", "alone"]), st.integers(0, 3)), max_size=40
    )
)
def test_no_owner_is_ever_orphaned_while_a_worker_lives(events: list[tuple[str, int]]) -> None:
    roster = Roster(4)
    for event, slot in events:
        if event == "arrived" and slot in roster.alive:
            continue
        if event == "alone":
            roster.stalled(slot, is_alone=True)
        else:
            getattr(roster, event)(slot)
        for owner, slots in roster.serving.items():
            assert slots <= roster.alive
            assert slots or not roster.alive, owner


def test_a_stalled_worker_is_relieved_where_only_one_may_serve() -> None:
    roster = Roster(2)
    roster.arrived(0)
    roster.arrived(1)
    assert roster.stalled(0, is_alone=True) == [Grant(0, 1), Release(0, 0)]
    assert roster.stalled(0, is_alone=True) == [Grant(0, 0), Release(0, 1)], "the other may be fine again"
    assert roster.stalled(0, is_alone=True) == [Grant(0, 1), Release(0, 0)]
    assert roster.arrived(0) == [Grant(0, 0), Release(0, 1)], "it has come round"


def test_who_is_alone_stays_at_it() -> None:
    roster = Roster(2)
    roster.arrived(0)
    assert roster.stalled(1, is_alone=True) == []
    assert roster.serving[1] == {0}
