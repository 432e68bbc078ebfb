"""The sequence of faults: its seed gives it again, and no fault is left out."""

from __future__ import annotations

import itertools

from tests.chaos.catalogue import FAULTS
from tests.chaos.schedule import Span, Step, steps

SPANS = {name: Span(1, 3) for name in ("one", "two", "three", "four")}
NODES = ("node-a", "node-b")


def taken(seed: int, count: int, alone: frozenset[str] = frozenset()) -> list[Step]:
    return list(itertools.islice(steps(seed, SPANS, NODES, alone), count))


def test_a_seed_gives_the_same_sequence_again_and_another_seed_another() -> None:
    assert taken(7, 50) == taken(7, 50) != taken(8, 50)


def test_every_fault_comes_before_one_comes_twice_and_at_both_nodes() -> None:
    sequence = taken(1, 80)
    for first in range(0, 80, len(SPANS)):
        assert {step.fault for step in sequence[first : first + len(SPANS)]} == set(SPANS)
    assert {(step.fault, step.node) for step in sequence} == set(itertools.product(SPANS, NODES))
    assert all(1 <= step.hold_s <= 3 for step in sequence)


def test_some_come_together_and_those_that_must_be_alone_do_not() -> None:
    pairs = [step for step in taken(3, 400, frozenset({"two"})) if step.also is not None]
    assert len(pairs) > 25
    for step in pairs:
        assert step.also is not None and step.also.also is None
        assert step.fault != step.also.fault and "two" not in (step.fault, step.also.fault)


def test_which_may_come_together_changes_nothing_of_those_that_follow() -> None:
    free, bound = taken(5, 60), taken(5, 60, frozenset(SPANS))
    assert [(step.fault, step.hold_s, step.draw) for step in free] == [
        (step.fault, step.hold_s, step.draw) for step in bound
    ]
    assert not [step for step in bound if step.also]


def test_the_table_has_a_bound_for_each_fault_and_allows_no_wrong_byte() -> None:
    for name, fault in FAULTS.items():
        assert fault.allowed.heals_s > 0 and 0 <= fault.span.least_s <= fault.span.most_s, name
        assert not {"wrong bytes", "ended early"} & (fault.allowed.live | fault.allowed.new), name
