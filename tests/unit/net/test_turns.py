"""Steps of handshakes: one for each round of the loop, sources in turn, what has gone skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.net.loop import Loop
from agent.net.turns import CROWD_REST, DOUBTED_REST, RANKS, Turns


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def loop(errors: list[BaseException]) -> Iterator[Loop]:
    made = Loop(lambda: 0.0, lambda error, fd: errors.append(error))
    yield made
    made.close()


def taking(done: list[str], name: str, *, is_work: bool = True) -> Callable[[], bool]:
    def step() -> bool:
        done.append(name)
        return is_work

    return step


def all_done(loop: Loop) -> None:
    for _ in range(10):
        loop.turn()


def test_one_that_is_alone_is_taken_in_the_same_round(loop: Loop) -> None:
    done: list[str] = []
    Turns(loop).ask("a", taking(done, "a"))
    assert not done
    loop.turn()
    assert done == ["a"]


def test_a_crowd_of_one_source_delays_another_by_one_step(loop: Loop) -> None:
    done: list[str] = []
    turns = Turns(loop)
    for n in range(5):
        turns.ask("crowd", taking(done, f"crowd {n}"))
    turns.ask("other", taking(done, "other"))
    all_done(loop)
    assert done == ["crowd 0", "other", "crowd 1", "crowd 2", "crowd 3", "crowd 4"]


def test_between_two_steps_others_have_their_turn(loop: Loop) -> None:
    done: list[str] = []
    turns = Turns(loop)
    for name in "ab":
        turns.ask(name, taking(done, name))
    loop.soon(taking(done, "traffic"))
    all_done(loop)
    assert done == ["a", "traffic", "b"]


def test_steps_of_connections_that_have_gone_take_no_round(loop: Loop) -> None:
    done: list[str] = []
    turns = Turns(loop)
    for n in range(3):
        turns.ask(n, taking(done, "gone", is_work=False))
    turns.ask("a", taking(done, "a"))
    loop.soon(taking(done, "next round"))
    all_done(loop)
    assert done == ["gone"] * 3 + ["a", "next round"]


def test_a_step_that_fails_stops_nobody(loop: Loop, errors: list[BaseException]) -> None:
    done: list[str] = []
    turns = Turns(loop)

    def broken() -> bool:
        raise ValueError("broken")

    turns.ask("a", broken)
    turns.ask("b", taking(done, "b"))
    all_done(loop)
    assert done == ["b"] and [str(error) for error in errors] == ["broken"]


# -- ranks


def test_a_lower_rank_waits_but_has_every_fourth_turn(loop: Loop) -> None:
    done: list[str] = []
    turns = Turns(loop)
    for _ in range(8):
        turns.ask("few", taking(done, "few"), 1)
        turns.ask("known", taking(done, "known"), 0)
    for _ in range(20):
        loop.turn()
    assert done[:8] == ["known"] * 3 + ["few"] + ["known"] * 3 + ["few"]
    assert sorted(done) == ["few"] * 8 + ["known"] * 8


class Work:
    """Steps of a millisecond each, by the clock that they turn."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.done: list[str] = []
        self.loop = Loop(lambda: self.now_s, lambda error, fd: None)

    def step(self, name: str) -> Callable[[], bool]:
        def take() -> bool:
            self.done.append(name)
            self.now_s += 0.001
            return True

        return take


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.loop.close()


def test_a_crowd_rests_for_far_longer_than_it_works_and_others_do_not(work: Work) -> None:
    turns = Turns(work.loop)
    for _ in range(3):
        turns.ask("crowd", work.step("crowd"), RANKS - 1)
    work.loop.turn()
    turns.ask("few", work.step("few"), 1)
    work.loop.turn()
    assert work.done == ["crowd", "few"]
    for _ in range(5):
        work.loop.turn()
    assert len(work.done) == 2, "nothing else is due, and yet it rests"
    work.now_s = 0.001 * (CROWD_REST + 2)
    work.loop.turn()
    work.loop.turn()
    assert work.done == ["crowd", "few", "crowd"]
    turns.raise_up("crowd")
    work.loop.turn()
    assert len(work.done) == 4, "it is a crowd no more"


def test_those_nobody_knows_rest_while_they_are_doubted_and_known_ones_do_not(work: Work) -> None:
    doubted = True
    turns = Turns(work.loop, lambda: doubted)
    for source in "abcd":
        turns.ask(source, work.step("unknown"), 1)
    for _ in range(3):
        work.loop.turn()
    assert work.done == ["unknown"]
    for source in "ef":
        turns.ask(source, work.step("known"), 0)
    for _ in range(5):
        work.loop.turn()
    assert work.done == ["unknown", "known", "known"]
    work.now_s = 0.001 * (DOUBTED_REST + 1)
    doubted = False
    for _ in range(5):
        work.loop.turn()
    assert work.done[3:] == ["unknown"] * 3, "one of them had to rest; then they were trusted again"
