"""Charts show every system that was measured, and the same figures always give the same file."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench.charts import Chart, drawn
from tests.bench.sweeps import SUBJECTS, TITLES, Figures, charts

FIGURES: Figures = {
    subject.name: {name: [(1.0, 2.5), (64.0, 40.0)] for name in TITLES} for subject in SUBJECTS
}


@pytest.mark.parametrize(
    "chart", charts(FIGURES, "abc1234, 2026-11-29, 2 cores"), ids=lambda chart: str(chart.name)
)
def test_a_chart_names_all_systems_axes_and_where_it_is_from(chart: Chart) -> None:
    text = drawn(chart)
    words = " ".join(ElementTree.fromstring(text).itertext())
    for each in (*TITLES.values(), chart.x_title, chart.y_title, "abc1234", "2026-11-29"):
        assert each in words
    assert "<script" not in text and text == drawn(chart)


def test_a_system_without_figures_is_not_in_the_legend() -> None:
    without = {**FIGURES, "cpu": {**FIGURES["cpu"], "direct": []}}
    cpu = next(chart for chart in charts(without, "") if chart.name == "cpu")
    assert TITLES["direct"] not in cpu.series and len(cpu.series) == 3
