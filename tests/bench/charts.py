"""Draws what `sweeps` measured, an SVG for each subject. Pure: the same figures give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pygal
from pygal.style import Style

Points = Sequence[tuple[float, float]]
Series = Mapping[str, Points]
"""Title of a system -> (x, y) of each measurement."""

# Told apart also without colours, by their order in the legend: Okabe and Ito, Color Universal Design.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#999999")
STYLE = Style(
    background="white",
    plot_background="white",
    colors=COLOURS,
    font_family="sans-serif",
    title_font_size=16,
    legend_font_size=14,
    label_font_size=12,
    major_label_font_size=12,
)
WIDTH, HEIGHT = 760, 420
_NUMBER = re.compile(r"chart-[0-9a-f-]{36}")
_MADE = re.compile(r"<!--.*?-->|<script.*?</script>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chart:
    """`name`: of its file, without an ending. `is_log`: both axes grow by factors."""

    name: str
    title: str
    x_title: str
    y_title: str
    series: Series
    is_log: bool = False


def _ticks(values: Iterable[float]) -> list[int]:
    """1, 2 and 5 of each power of ten, from below the least to above the largest: all others overlap."""
    found = tuple(values)
    steps = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    first = max((each for each in steps if each <= min(found)), default=1)
    last = min((each for each in steps if each >= max(found)), default=steps[-1])
    return [each for each in steps if first <= each <= last]


def drawn(chart: Chart) -> str:
    """The SVG, without scripts and without the time at which it was made."""
    made = pygal.XY(
        width=WIDTH,
        height=HEIGHT,
        explicit_size=True,
        js=[],
        style=STYLE,
        title=chart.title,
        x_title=chart.x_title,
        y_title=chart.y_title,
        legend_at_bottom=True,
        logarithmic=chart.is_log,
        xrange=None,
        include_x_axis=not chart.is_log,
    )
    if chart.is_log:
        every = [point for points in chart.series.values() for point in points]
        made.x_labels = _ticks(x for x, _ in every)
        made.y_labels = _ticks(y for _, y in every)
    for title, points in chart.series.items():
        made.add(title, [(round(x, 3), round(y, 3)) for x, y in points])
    text = made.render(is_unicode=True)
    return _MADE.sub("", _NUMBER.sub(f"chart-{chart.name}", text)) + "\n"
