"""What grows is told from what is flat, and log lines are counted by their text."""

from __future__ import annotations

from tests.chaos.slopes import remarks, slope


def test_a_leak_is_told_with_its_slope_and_what_only_trembles_is_flat() -> None:
    leak = slope("x, MB", [(second, 50 + second / 36) for second in range(0, 3600, 30)], 2.0)
    assert not leak.is_flat and abs(leak.per_hour - 100) < 1
    trembling = slope("x, MB", [(second, 50 + second % 3) for second in range(0, 3600, 30)], 2.0)
    assert trembling.is_flat and abs(trembling.per_hour) < 3


def test_what_fills_at_the_start_is_no_leak() -> None:
    filling = slope("x", [(second, min(100.0, second)) for second in range(0, 3600, 10)], 1.0)
    assert filling.is_flat


def test_a_little_of_a_small_figure_is_within_its_slack() -> None:
    rows = [(float(second), 10.0 + (second > 300)) for second in range(0, 600, 10)]
    assert slope("x, descriptors", rows, 4.0).is_flat
    assert not slope("x, descriptors", rows, 0.5).is_flat


def test_lines_above_info_are_counted_by_text_without_their_numbers() -> None:
    lines = [
        "2026-11-30T00:00:00.000000Z\tinfo\tcontrol:app\tready",
        "2026-11-30T00:00:01.000000Z\twarning\tworker 1:net\tpeer 10.0.0.1:5 is gone",
        "2026-11-30T00:00:02.000000Z\twarning\tworker 1:net\tpeer 10.0.0.2:77 is gone",
        '2026-11-30T00:00:03.000000Z\terror\taccess\tconnection complete\tsrc.addr=10.0.0.1:5 src.workload="spare-a" '
        'dst.workload="server-b" error="POLICY_DENIED: explicitly denied by: demo/x"',
        "Traceback (most recent call last):",
    ]
    found = remarks(lines)
    assert sorted(found.values()) == [1, 1, 2]
    assert found["error access, spare-a to server-b: POLICY_DENIED"] == 1
    assert found["(no log line) Traceback (most recent call last):"] == 1
