"""`scripts/bench --plot DIR`: the same work at more and more streams, load and connections, drawn as charts.

ztun as this tree has it, which scripts/bench compiles, the same commit as pure Python, Envoy and no proxy, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import earlier
from tests.bench.charts import Chart, Series, drawn
from tests.bench.lab_options import refuse_unfit
from tests.bench.rounds import Idle, Rounds, Workload
from tests.bench.systems import BEFORE, Stage, System

ROOT = Path(__file__).parents[2]
ROUNDS, WARM_UP_S, LENGTH_S = 3, 0.3, 1.0
STREAMS = (1, 2, 4, 8, 16)
CONNECTIONS = (1, 4, 16, 64, 256)
LOADS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of what a system answers at most; and then that."""
ASKING = 64
OPEN = (0, 250, 500, 1000, 2000)
TITLES = {"ztun": "ztun", BEFORE: "ztun, pure Python", "envoy": "Envoy", "direct": "no proxy"}

Figures = dict[str, dict[str, list[tuple[float, float]]]]
"""Chart -> system -> (x, y)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a chart says; `series` come from what was measured."""

    name: str
    title: str
    x_title: str
    y_title: str
    is_log: bool = False


SUBJECTS = (
    Subject("throughput", "Download", "streams", "GB/s"),
    Subject("latency", "Round trip, 64 connections, p99", "requests per second", "us", is_log=True),
    Subject("cpu", "CPU of both proxies per request", "connections", "us", is_log=True),
    Subject("memory", "Memory of both proxies", "open connections", "MB"),
)


class Sweeps:
    """Each measurement `count` times; the medians."""

    def __init__(self, rounds: Rounds, count: int, tell: Callable[[str], None]) -> None:
        self._rounds = rounds
        self._count = count
        self._tell = tell

    def run(self, systems: Mapping[str, System]) -> Figures:
        figures: Figures = {subject.name: {name: [] for name in systems} for subject in SUBJECTS}
        for name, system in systems.items():
            self._tell(f"{TITLES[name]}: streams, load, connections")
            figures["throughput"][name] = [
                (count, self._median(system, Workload(f"download_{count}", "download", count)))
                for count in STREAMS
            ]
            figures["latency"][name] = list(self._loads(system))
            if system.proxies:
                figures["cpu"][name] = [(count, self._cpu(system, count)) for count in CONNECTIONS]
        return figures

    def _loads(self, system: System) -> Iterator[tuple[float, float]]:
        full = Workload(f"exchange_{ASKING}", "exchange", ASKING)
        most = self._median(system, full)
        for share in LOADS:
            load = Workload("load", "paced", ASKING, rate=share * most)
            yield share * most, self._median(system, load, "p99_load")
        yield most, self._median(system, full, f"p99_{ASKING}")

    def _cpu(self, system: System, count: int) -> float:
        name = f"exchange_{count}"
        return self._median(system, Workload(name, "exchange", count), f"cpu_{name}")

    def _median(self, system: System, workload: Workload, metric: str = "") -> float:
        values = [self._rounds.measure(system, workload) for _ in range(self._count)]
        return statistics.median(each[metric or workload.name] for each in values)


def charts(figures: Figures, about: str) -> list[Chart]:
    """`about`: of which commit, when and where."""
    made = []
    for subject in SUBJECTS:
        series: Series = {TITLES[name]: points for name, points in figures[subject.name].items() if points}
        title = f"{subject.title} ({about})"
        made.append(Chart(subject.name, title, subject.x_title, subject.y_title, series, subject.is_log))
    return made


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench --plot", description="charts of ztun, Envoy and no proxy, and their figures"
    )
    parser.add_argument("directory", type=Path, help="of the charts; figures.json has what they show")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--name", default="ztunplot", help="name of the lab, 9 characters at most")
    options = parser.parse_args(argv)
    refuse_unfit(parser, options, 9)
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    pure = earlier.install("HEAD", ROOT, tell)
    commit = earlier.commit_of("HEAD", ROOT)
    with Stage(options.name, tell, is_pinned=True, before=pure) as fresh:
        memory = Idle(fresh, tell).growth(OPEN)
    with Stage(options.name, tell, is_pinned=True, before=pure) as stage:
        rounds = Rounds(stage, WARM_UP_S, LENGTH_S, tell)
        figures = Sweeps(rounds, options.rounds, tell).run(stage.systems)
        stage.check_captured()
    figures["memory"] = {name: [(n, value / 1e6) for n, value in points] for name, points in memory.items()}
    day = datetime.now(UTC).date().isoformat()
    options.directory.mkdir(parents=True, exist_ok=True)
    for chart in charts(figures, f"{commit[:7]}, {day}, {os.cpu_count()} cores"):
        (options.directory / f"{chart.name}.svg").write_text(drawn(chart))
    about = {"commit": commit, "date": day, "rounds": options.rounds, "load_before": load}
    text = json.dumps({"about": about, "figures": figures}, indent=1)
    (options.directory / "figures.json").write_text(text + "\n")
    tell(f"charts are in {options.directory}")
    return 0
