"""Bursts melt into one piece of news, and no storm keeps the agent busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent.enroll.news import (
    APPLY_SPACING_S,
    CREDIT_S,
    DOUBT_ALL_SPACING_S,
    DOUBTS_A_TURN,
    REST_LIMIT_S,
    REST_SHARE,
    Interfaces,
    News,
    NewsDesk,
    PassersBy,
)
from redirect.host_addresses import Heard
from redirect.host_addresses import News as Kind

LINKS = Heard(frozenset({Kind.LINKS}))
NEWCOMER = Heard(frozenset({Kind.LINKS}), links=frozenset({6}))
ELSEWHERE = Heard(elsewhere=frozenset({3, 4}))
OWN, STRANGER, POD, BRIDGE = 5, 60, 7, 8
MINE = Interfaces(
    frozenset({POD}), frozenset({OWN}), frozenset({BRIDGE}), frozenset({OWN, STRANGER, POD, BRIDGE})
)
PASSES = Heard(frozenset({Kind.LINKS}), touched=frozenset({STRANGER}))


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def desk() -> tuple[NewsDesk, Clock]:
    clock = Clock()
    return NewsDesk(clock), clock


def is_woken(made: NewsDesk) -> bool:
    async def ask() -> bool:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(made.wait(None))
            for _ in range(10):
                await asyncio.sleep(0)
            is_done = waiting.done()
            waiting.cancel()
        return is_done

    return asyncio.run(ask())


def test_a_burst_is_one_piece_of_news_as_old_as_its_first_part() -> None:
    made, clock = desk()
    made.hear(LINKS, ())
    clock.now_s += 0.02
    made.hear(ELSEWHERE, {3})
    assert made.take(()) == News(100.0, frozenset({3}), True)
    assert made.take(()) == News(None, frozenset(), False)


def test_only_namespaces_of_wished_pods_count() -> None:
    made, _ = desk()
    made.hear(ELSEWHERE, {5})
    assert not is_woken(made)
    made.hear(ELSEWHERE, {4, 5})
    assert is_woken(made)


def test_what_was_heard_of_a_namespace_while_it_was_found_is_newer_than_what_the_look_saw() -> None:
    made, _ = desk()
    made.hear(ELSEWHERE, ())
    made.looks()
    made.found({3, 4})
    assert made.take({3, 4}).doubted == set(), "the look came after it"
    made.looks()
    made.hear(ELSEWHERE, ())
    made.found({4, 5})
    assert is_woken(made) and made.take({4, 5}).doubted == {4}
    made.found({3, 4})
    assert made.take({3, 4}).doubted == set()


@pytest.mark.parametrize("kind", Kind)
def test_everything_of_the_node_itself_counts(kind: Kind) -> None:
    made, _ = desk()
    made.hear(Heard(frozenset({kind})), ())
    assert is_woken(made) and made.take(()).is_of_node


def test_after_lost_messages_every_pod_is_doubted() -> None:
    made, _ = desk()
    made.hear(Heard(frozenset(Kind), is_lossy=True), {7, 8})
    assert made.take({7, 8}).doubted == {7, 8}
    assert made.take({7, 8}).doubted == frozenset()


def test_a_pod_that_floods_the_kernel_does_not_have_all_others_looked_at_all_the_time() -> None:
    made, clock = desk()
    lossy = Heard(frozenset(Kind), is_lossy=True)
    looks = 0
    for _ in range(100):
        clock.now_s += 0.1
        made.hear(lossy, {7, 8})
        looks += bool(made.take({7, 8}).doubted)
    assert looks == 2
    clock.now_s += DOUBT_ALL_SPACING_S
    assert is_woken(made) and made.take({7, 8}).doubted, "but it is done in the end"


def test_everything_is_applied_anew_at_most_twice_a_second_but_never_forgotten() -> None:
    made, clock = desk()
    made.hear(LINKS, ())
    assert made.take(()).is_of_node
    clock.now_s += APPLY_SPACING_S / 2
    made.hear(LINKS, ())
    assert not made.take(()).is_of_node
    clock.now_s += APPLY_SPACING_S / 2
    assert is_woken(made), "what is owed is done without more news"
    assert made.take(()).is_of_node


def test_pods_are_looked_at_a_few_at_a_time_each_in_its_turn() -> None:
    """While all of them are, a new interface would be open."""
    made, _ = desk()
    pods = set(range(10))
    made.hear(Heard(elsewhere=frozenset(pods)), pods)
    seen: list[int] = []
    while is_woken(made):
        made.hear(Heard(elsewhere=frozenset({0})), pods)
        news = made.take(pods)
        assert 0 < len(news.doubted) <= DOUBTS_A_TURN
        seen += news.doubted
        if len(seen) > 30:
            break
    assert set(seen) == pods, "one that makes news all the time does not keep the others from theirs"


def test_rest_ends_when_an_interface_is_new_and_for_nothing_else() -> None:
    async def scenario() -> list[bool]:
        made, _ = desk()
        for _ in range(50):
            made.pause_s(1)
        results = []
        for heard in (Heard(frozenset({Kind.LINKS}), links=frozenset({5})), ELSEWHERE, NEWCOMER):
            async with asyncio.TaskGroup() as group:
                resting = group.create_task(made.rest(1))
                await asyncio.sleep(0)
                made.hear(heard, {3, 4}, Interfaces(known=frozenset({5})))
                for _ in range(5):
                    await asyncio.sleep(0)
                results.append(resting.done())
                resting.cancel()
        return results

    assert asyncio.run(scenario()) == [False, False, True]


def test_rest_ends_when_a_pods_start_waits() -> None:
    async def scenario() -> bool:
        made, _ = desk()
        for _ in range(50):
            made.pause_s(1)
        made.hurry()
        async with asyncio.timeout(REST_LIMIT_S * 100):
            await made.wait(None)
            await made.rest(1)
        return made.take(()).is_of_node

    assert asyncio.run(scenario()) is False, "nothing is applied anew for that"


@pytest.mark.parametrize(
    ("touched", "kinds", "is_of_node", "again"),
    [
        ({POD}, {Kind.LINKS}, False, {POD}),
        ({POD, STRANGER}, {Kind.LINKS}, False, {POD}),
        ({POD}, {Kind.FILTERS}, True, {POD}),
        ({OWN}, {Kind.LINKS}, True, ()),
        ({BRIDGE}, {Kind.LINKS}, False, ()),
        ({STRANGER}, {Kind.LINKS, Kind.ADDRESSES}, True, ()),
        ((), {Kind.LINKS}, True, ()),
    ],
)
def test_what_happens_to_an_interface_has_that_one_applied_again_or_everything(
    touched: set[int], kinds: set[Kind], is_of_node: bool, again: set[int]
) -> None:
    made, _ = desk()
    made.hear(Heard(frozenset(kinds), touched=frozenset(touched)), (), MINE)
    assert is_woken(made) and made.passers_by() is None
    news = made.take(())
    assert (news.is_of_node, news.touched) == (is_of_node, frozenset(again))
    assert not made.take(()).touched


def test_after_lost_messages_it_may_have_been_any_interface() -> None:
    made, _ = desk()
    made.hear(Heard(frozenset(Kind), is_lossy=True, touched=frozenset({STRANGER})), (), MINE)
    assert made.passers_by() is None and made.take(()).is_of_node


@pytest.mark.parametrize("kinds", [{Kind.LINKS}, {Kind.LINKS, Kind.FILTERS}])
def test_an_interface_that_is_none_of_ours_passes_by(kinds: set[Kind]) -> None:
    made, clock = desk()
    made.hear(PASSES, (), MINE)
    clock.now_s += 0.1
    made.hear(Heard(frozenset(kinds), touched=frozenset({STRANGER + 1})), (), MINE)
    assert is_woken(made)
    assert made.passers_by() == PassersBy(frozenset({STRANGER, STRANGER + 1}), 100.0)
    assert not is_woken(made) and made.passers_by() is None, "it is heard no longer"


def test_one_that_leads_to_a_pod_after_all_has_its_turn_and_is_as_old_as_it_is() -> None:
    made, clock = desk()
    made.hear(PASSES, (), MINE)
    passers_by = made.passers_by()
    assert passers_by is not None
    clock.now_s += 0.1
    made.hear(PASSES, (), MINE)
    made.recall(passers_by)
    assert is_woken(made) and made.passers_by() is None
    assert made.take(()).told_s == 100.0


@pytest.mark.parametrize(
    "more",
    [
        lambda made: made.wake(),
        lambda made: made.hurry(),
        lambda made: made.hear(ELSEWHERE, {3}, MINE),
        lambda made: made.hear(Heard(frozenset({Kind.LINKS}), touched=frozenset({POD})), (), MINE),
        lambda made: made.hear(Heard(PASSES.news, ELSEWHERE.elsewhere, touched=PASSES.touched), {3}, MINE),
    ],
    ids=["wake", "hurry", "elsewhere", "captured", "both"],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_turn_that_is_due_does_not_get_lost_among_passers_by(
    more: Callable[[NewsDesk], None], is_first: bool
) -> None:
    made, _ = desk()
    if is_first:
        more(made)
    made.hear(PASSES, (), MINE)
    if not is_first:
        more(made)
    assert made.passers_by() is None and is_woken(made)


def test_namespaces_that_are_left_for_another_turn_are_not_forgotten_for_passers_by() -> None:
    made, _ = desk()
    pods = frozenset(range(DOUBTS_A_TURN + 1))
    made.hear(Heard(elsewhere=pods), pods)
    made.take(pods)
    made.hear(PASSES, (), MINE)
    assert made.passers_by() is None and made.take(pods).doubted


def test_whoever_waits_for_a_turn_gets_a_whole_one() -> None:
    made, _ = desk()
    made.hear(LINKS, ())
    made.take(())
    assert made.take((), is_asked=True).is_of_node


def test_a_storm_gets_a_quarter_of_the_time_and_a_few_turns_none_of_the_rest() -> None:
    made, clock = desk()
    turns, rested_s, took_s = 1000, 0.0, 0.02
    for turn in range(turns):
        clock.now_s += took_s
        pause_s = made.pause_s(took_s)
        assert turn >= CREDIT_S / (took_s * REST_SHARE) - 1 or pause_s == 0
        clock.now_s += pause_s
        rested_s += pause_s
    assert rested_s > REST_SHARE * turns * took_s - CREDIT_S - REST_SHARE * took_s
    clock.now_s += 2 * CREDIT_S
    assert made.pause_s(took_s) == 0


def test_a_turn_that_the_kernel_kept_waiting_is_not_paid_for_by_pods_that_come_after_it() -> None:
    made, clock = desk()
    for _ in range(5):
        clock.now_s += 3
        assert made.pause_s(3) <= REST_LIMIT_S
