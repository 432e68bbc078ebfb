"""What the flood's bench and the many pods' one make of their figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench import denied, redirect

QUIET = denied.Phase(cpu_s=0.2, p50_us=1000, p99_us=2000, failed=0, opened=100)
LOUD = replace(QUIET, cpu_s=0.21, p99_us=2200, syns_per_s=50_000, answered_share=1.0)
FEW = redirect.Result(1000, 5.0, 10.0, 0.05, 0.001, 0.06, 8.0, 25_000_000, 3_000_000, 0.02)


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
    late = redirect.misses(replace(FEW, enrolled_s=30.0, idle_s=0.2))
    assert [line.split(" ")[0] for line in late] == ["35.0", "200"]


def test_the_table_has_what_one_pod_costs_and_iptables_where_there_are_some() -> None:
    assert "10.00 ms" in redirect.table(FEW) and "iptables" in redirect.table(FEW)
    assert "iptables" not in redirect.table(replace(FEW, beside_s=None))
