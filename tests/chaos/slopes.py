"""Whether a figure grows: a line through its samples, and what that comes to in an hour. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

WARM_UP = 0.2
"""The share of a run at its beginning that counts for no slope: caches fill, pools open."""
GROWTH = 0.05
"""By how much of itself the last third may lie above the first one and be called flat."""
LEVELS = ("warn", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Slope:
    """Of one figure. `per_hour`: by least squares; `first` and `last`: medians of the first and the last third."""

    name: str
    per_hour: float
    first: float
    last: float
    is_flat: bool

    def __str__(self) -> str:
        word = "flat" if self.is_flat else "GROWS"
        return (
            f"{self.name:44} {self.first:12.1f} -> {self.last:12.1f}  {self.per_hour:+12.1f} an hour  {word}"
        )


def slope(name: str, samples: Sequence[tuple[float, float]], slack: float) -> Slope:
    """`samples`: (seconds, value), in order; `slack`: what it may grow by whatever it is, in its own unit."""
    begin_s = samples[0][0] + (samples[-1][0] - samples[0][0]) * WARM_UP
    rows = [row for row in samples if row[0] >= begin_s]
    mean_s = sum(at for at, _ in rows) / len(rows)
    mean = sum(value for _, value in rows) / len(rows)
    spread = sum((at - mean_s) ** 2 for at, _ in rows)
    per_s = sum((at - mean_s) * (value - mean) for at, value in rows) / spread if spread else 0.0
    third = max(1, len(rows) // 3)
    first, last = (median(value for _, value in part) for part in (rows[:third], rows[-third:]))
    return Slope(name, per_s * 3600, first, last, last - first <= max(slack, first * GROWTH))


def remarks(lines: Iterable[str]) -> Counter[str]:
    """Lines above info of logs in plain format, by level and text; numbers and addresses are left out of the text."""
    found: Counter[str] = Counter()
    for line in lines:
        parts = line.rstrip("\n").split("\t", 3)
        if len(parts) == 4 and parts[1].lower() in LEVELS and parts[2] == "access":
            found[f"{parts[1]} access, {_visit(parts[3])}"] += 1
        elif len(parts) == 4 and parts[1].lower() in LEVELS:
            found[f"{parts[1]} {parts[2]} {_bare(parts[3])}"] += 1
        elif len(parts) < 4 and line.strip():
            found[f"(no log line) {_bare(line.strip())}"] += 1
    return found


def _visit(text: str) -> str:
    """Who wanted whom, and what came of it."""
    found = [re.search(rf'{name}="([^"\s:]*)', text) for name in ("src.workload", "dst.workload", "error")]
    client, server, error = (match[1] if match else "?" for match in found)
    return f"{client} to {server}: {error}"


def _bare(text: str) -> str:
    return re.sub(r"[0-9a-f]*\d[0-9a-f.:]*", "N", text)
