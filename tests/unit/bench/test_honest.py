"""What the benches of honest connects make of their figures: those side by side, and those of a pod that floods."""

from __future__ import annotations

from dataclasses import replace

from tests.bench import honest, neighbours

ROW = {row: [10.0, 10.0, 10.0] for row in honest.ROWS}
WORSE = {**ROW, "rate": [9.0, 8.0, 9.5], "cpu": [14.0, 13.5, 12.0]}
QUIET = neighbours.Phase(100, 0, 1000.0, 2000.0, 3000.0, 0.2)
LOUD = replace(QUIET, p99_us=4000.0, worst_us=9000.0, syns_per_s=20_000.0)


def test_ratios_are_those_of_rounds_and_targets_those_of_32_at_once() -> None:
    samples = {"32": {honest.OFF: ROW, honest.HONEST: WORSE}, "1": {honest.OFF: ROW, honest.HONEST: ROW}}
    lines = honest.table(samples).splitlines()
    rate = next(line for line in lines if line.startswith("connections"))
    assert rate.split()[-4] == "0.900", "the median of the rounds"
    missed = honest.misses(samples, {honest.OFF: 0, honest.HONEST: 3})
    assert [line.partition(":")[0] for line in missed] == [honest.HONEST, "rate", "CPU"]
    assert not honest.misses({**samples, "32": samples["1"]}, {honest.HONEST: 0})


def test_a_neighbour_that_fails_and_one_that_is_not_served_at_all_are_told() -> None:
    good = {"open": [(QUIET, LOUD), (QUIET, LOUD)]}
    assert not neighbours.misses(good) and "2.0 -> 4.0" in neighbours.table(good)
    bad = {
        "open": [(QUIET, replace(LOUD, failed=1)), (QUIET, LOUD)],
        "closed": [(QUIET, replace(LOUD, opened=0))],
    }
    assert [line.partition(":")[0] for line in neighbours.misses(bad)] == ["open", "closed"]
