"""Long work in slices: how much of it is done at once, and what comes out."""

from __future__ import annotations

from itertools import count

from agent.model.steps import PACE, SLICE_S, Steps, each, goes_on, to_the_end


def test_work_rests_after_so_many_and_all_are_taken_in_order() -> None:
    taken: list[int] = []
    rests = [len(taken) for _ in each(range(3 * PACE + 1), taken.append)]
    assert rests == [PACE, 2 * PACE, 3 * PACE]
    assert taken == list(range(3 * PACE + 1))


def test_a_slice_ends_with_its_time_and_the_next_goes_on() -> None:
    """Each look at the clock finds a quarter of a slice gone by."""
    ticks = count()
    taken: list[int] = []
    work = each(range(10 * PACE), taken.append)
    done = []
    while goes_on(work, lambda: next(ticks) * SLICE_S / 4):
        done.append(len(taken) // PACE)
    assert done == [4, 8] and len(taken) == 10 * PACE


def test_short_work_is_done_in_one_slice() -> None:
    taken: list[int] = []
    assert not goes_on(each(range(PACE - 1), taken.append), lambda: 0.0)
    assert len(taken) == PACE - 1


def test_the_result_is_what_the_work_returns() -> None:
    def work() -> Steps[str]:
        yield from each("abc", str)
        yield
        return "made"

    assert to_the_end(work()) == "made"
