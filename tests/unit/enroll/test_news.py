"""Bursts melt into one piece of news, and no storm keeps the agent busy."""

from __future__ import annotations

import asyncio

import pytest

from agent.enroll.news import APPLY_SPACING_S, CREDIT_S, REST_LIMIT_S, REST_SHARE, News, NewsDesk
from redirect.host_addresses import Heard
from redirect.host_addresses import News as Kind

LINKS = Heard(frozenset({Kind.LINKS}))
ELSEWHERE = Heard(elsewhere=frozenset({3, 4}))


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
