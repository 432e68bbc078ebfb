"""What the flood's bench and the many pods' one make of their figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench import denied, redirect, ways

QUIET = denied.Phase(cpu_s=0.2, p50_us=1000, p99_us=2000, failed=0, opened=100)
LOUD = replace(QUIET, cpu_s=0.21, p99_us=2200, syns_per_s=50_000, answered_share=1.0)
TAKEN = redirect.Taken(5.0, 1.0)
TURN = redirect.Taken(0.2, 0.05)
COSTS = dict.fromkeys(ways.WAYS, 200.0)
COMPARED = ways.Compared(
    dict.fromkeys(ways.KINDS, COSTS),
    {kind: dict.fromkeys(ways.RIVALS, 0.9) for kind in ways.KINDS},
    (ways.ProgramCost("from_pod", 500.0, 12.0),),
)
FEW = redirect.Result(
    *(
        1000,
        TAKEN,
        TAKEN,
        TURN,
        TAKEN,
        TURN,
        TURN,
        TURN,
        TURN,
        TAKEN,
        0.01,
        25_000_000,
        3_000_000,
        TURN,
        None,
        COMPARED,
    )
)


def test_a_flood_is_told_by_what_it_changes_round_by_round() -> None:
    slower = (replace(QUIET, p99_us=4000), replace(LOUD, p99_us=4400))
    of = denied.ratios([(QUIET, LOUD), slower, slower])
    assert (of["cpu"], of["p99"], of["failed"]) == pytest.approx((1.05, 1.1, 0))
    assert denied.misses(of) == []
    assert "50000" in denied.table({"on": of}) and "100%" in denied.table({"on": of})


def test_what_misses_its_target_is_said() -> None:
    bad = replace(LOUD, cpu_s=1.0, p99_us=9000, failed=2)
    assert len(denied.misses(denied.ratios([(QUIET, bad)]))) == 3
    assert redirect.misses(FEW) == []
    late = redirect.misses(replace(FEW, enrolled=redirect.Taken(30.0, 3.0), idle=redirect.Taken(0.1, 0.2)))
    assert [line.split(" ")[0] for line in late] == ["35.0", "200"]
    dear = {kind: dict.fromkeys(ways.RIVALS, 1.1) for kind in ways.KINDS}
    assert len(redirect.misses(replace(FEW, compared=replace(COMPARED, over=dear)))) == len(redirect.BELOW)


def test_the_table_has_what_one_pod_costs_and_others_where_there_are_some() -> None:
    assert "1,000 us" in redirect.table(FEW) and "iptables" in redirect.table(FEW)
    assert "6.00 us" in redirect.table(FEW), "a program's time in each connection"
    bare = redirect.table(replace(FEW, rules=None, compared=None))
    assert "iptables" not in bare and "ipset" not in bare and "relay" not in bare
