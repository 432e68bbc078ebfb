"""Starts side by side: ratios within rounds, and what is missed by name."""

from tests.bench.starts import Start, misses, summed


def test_ratios_are_those_of_rounds_and_not_of_medians() -> None:
    own = [Start(0.1, 0.2), Start(0.4, 0.4), Start(0.9, 0.5)]
    before = [Start(0.4, 0.4), Start(0.5, 0.4), Start(3.0, 1.0)]
    result = summed(own, before)
    assert (result.ready_s, result.cpu_s, result.before_ready_s) == (0.4, 0.4, 0.5)
    assert (result.ratio, result.cpu_ratio) == (0.3, 0.5)


def test_a_start_is_late_by_the_clock_and_by_what_it_was_before() -> None:
    assert misses(summed([Start(0.25, 0.2)], [Start(0.5, 0.4)])) == []
    slow = misses(summed([Start(0.3, 0.2)], [Start(0.5, 0.4)]))
    assert ["0.30 s" in slow[0], "0.60 of the time of before" in slow[1]] == [True, True]
    assert len(misses(summed([Start(0.3, 0.2)], []))) == 1
