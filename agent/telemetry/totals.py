"""Adds up the absolute figures of several workers, on the side of the control process.

No counter goes backwards when a worker is replaced: what the old one had counted last is kept and added to
what its successor counts. A successor that has inherited that counts on from there, and says whose counters are in
its own: those count only there. Gauges of an ended worker are gone with it. Pure bookkeeping: the snapshots come in by
message, whole or what has changed since the one before; the exposition reads `snapshot()`.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator

from agent.telemetry.families import BY_NAME, Family, Kind
from agent.telemetry.metrics import LABEL_SETS_LIMIT, Figures, Snapshot, is_tally, overflow
from agent.telemetry.record import LabelSet

APART_LIMIT = 8
FigureKey = tuple[str, tuple[str, ...]]


class _Counted:
    """What one process has counted, as far as it has told."""

    __slots__ = ("figures", "includes", "open", "tcp")

    def __init__(self) -> None:
        self.tcp: dict[LabelSet, list[int]] = {}
        self.open: dict[str, int] = {}
        self.figures: list[tuple[str, list[str], float]] = []
        self.includes: list[str] = []

    def hear(self, told: Snapshot) -> None:
        if not told.get("is_partial", False):
            self.tcp = {}
        for values, counts in told["tcp"]:
            # What this build has a name for: a worker of another one may count more, or by other labels.
            if is_tally(values, counts):
                # The names in them are few, and each pair of workloads would have its own copy of all.
                self.tcp[tuple(map(sys.intern, values))] = counts
        self.open, self.figures = told["open"], [row for row in told["figures"] if _is_known(*row)]
        self.includes = told.get("includes", [])


class Totals:
    """The sum over workers, live and ended. `update` may come any number of times, of each worker in its order."""

    def __init__(self, limit: int = LABEL_SETS_LIMIT) -> None:
        self._limit = limit
        self._live: dict[str, _Counted] = {}
        self._ended: set[str] = set()
        self._apart: dict[str, _Counted] = {}
        """The last counters of those that ended lately: somebody may say yet to have inherited them."""
        self._ended_tcp: dict[LabelSet, list[int]] = {}
        self._ended_figures: defaultdict[FigureKey, float] = defaultdict(float)

    def update(self, snapshot: Snapshot) -> None:
        """The newest figures of the worker that `process` in them names: pids of two containers may be the same.

        What comes after its end is counted already.
        """
        process = snapshot["process"]
        if process not in self._ended:
            self._live.setdefault(process, _Counted()).hear(snapshot)

    def retire(self, process: str) -> None:
        """The worker ended; its last counters stay in the sum. Unknown workers are nothing to do."""
        last = self._live.pop(process, None)
        if last is None:
            return
        self._ended.add(process)
        self._apart[process] = last
        while len(self._apart) > APART_LIMIT:
            oldest = next(iter(self._apart))
            is_included = oldest in self._included()
            self._fold(self._apart.pop(oldest), is_included=is_included)

    def _fold(self, last: _Counted, *, is_included: bool) -> None:
        """Nobody tells these apart from others any more."""
        if is_included:
            return
        for key, counts in last.tcp.items():
            _add(self._ended_tcp, self._bounded(key), counts)
        for name, labels, count in last.figures:
            if BY_NAME[name].kind is not Kind.GAUGE:
                self._ended_figures[name, tuple(labels)] += count

    def _included(self) -> set[str]:
        """Those whose counters are in another one's."""
        told = (*self._live.values(), *self._apart.values())
        return {each for counted in told for each in counted.includes}

    def _counting(self) -> Iterator[tuple[_Counted, bool]]:
        """Those whose counters are in nobody else's; whether they have ended."""
        included = self._included()
        for processes, has_ended in ((self._live, False), (self._apart, True)):
            for process, counted in processes.items():
                if process not in included:
                    yield counted, has_ended

    def snapshot(self, control: Figures | None = None) -> Snapshot:
        """The sum, with the control process's own figures in it."""
        tcp = {key: list(counts) for key, counts in self._ended_tcp.items()}
        for counted, has_ended in self._counting():
            for key, counts in counted.tcp.items():
                _add(
                    tcp,
                    key if not has_ended or len(tcp) < self._limit or key in tcp else overflow(key),
                    counts,
                )
        gauges: Counter[str] = Counter()
        for counted in self._live.values():
            gauges.update(counted.open)
        figures = self._figures(control)
        return {
            "process": "all",
            "tcp": [(list(key), counts) for key, counts in tcp.items()],
            "open": dict(gauges),
            "figures": [(name, list(labels), count) for (name, labels), count in figures.items()],
        }

    def sums(self, family: Family, control: Figures | None = None) -> dict[tuple[str, ...], float]:
        """The sum of one family by its label values."""
        figures = self._figures(control)
        return {labels: count for (name, labels), count in figures.items() if name == family.name}

    def _figures(self, control: Figures | None) -> dict[FigureKey, float]:
        figures = self._ended_figures.copy()
        for counted in self._live.values():
            for name, labels, count in counted.figures:
                if BY_NAME[name].kind is Kind.GAUGE:
                    figures[name, tuple(labels)] += count
        for counted, _ in self._counting():
            for name, labels, count in counted.figures:
                if BY_NAME[name].kind is not Kind.GAUGE:
                    figures[name, tuple(labels)] += count
        for name, labels, count in control.items() if control else ():
            figures[name, tuple(labels)] += count
        return figures

    def _bounded(self, label_set: LabelSet) -> LabelSet:
        """Ended workers may not grow the table without end either."""
        if label_set in self._ended_tcp or len(self._ended_tcp) < self._limit:
            return label_set
        return overflow(label_set)


def _is_known(name: str, labels: list[str], _: float) -> bool:
    family = BY_NAME.get(name)
    return family is not None and len(labels) == len(family.sample_labels)


def _add(table: dict[LabelSet, list[int]], key: LabelSet, counts: list[int]) -> None:
    present = table.get(key)
    table[key] = [a + b for a, b in zip(present, counts, strict=True)] if present else list(counts)
