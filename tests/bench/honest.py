"""`scripts/bench honest`: new connections with `--honest-connect=all` beside the same without, and where it goes.

A lab for each, alive at the same time and measured in turns by the same client: 32 at once, where the core of the
client's node is what there is too little of, and one after the other, where it is time. `--against REV` has honest
connects of another commit in the same rounds. A node's core has the client or the server with it. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agent import FORM
from agent.lab.agents import LabMesh
from agent.lab.topology import Topology
from tests.bench import accounting, earlier
from tests.bench.conclusion import conclude
from tests.bench.lab_options import refuse_unfit
from tests.bench.report import medians, ratio_of
from tests.bench.rounds import Samples, Workload, end, expect_begin, failure, line, start
from tests.bench.systems import Stage, System

ROOT = Path(__file__).parents[2]
OFF, HONEST, BEFORE = "off", "honest", "honest before"
ROUNDS, WARM_UP_S, LENGTH_S = 12, 0.3, 1.2
WORKLOADS = (Workload("32", "connect", 32), Workload("1", "connect", 1))
RATE_AT_LEAST, CPU_AT_MOST = 0.95, 1.3
ROWS = {
    "rate": "connections, 1/s",
    "p50": "first byte, p50 us",
    "cpu": "CPU of the proxies, us",
    "cpu_first": "  first node's workers",
    "cpu_second": "  second node's workers",
    "cpu_client": "  client",
    "cpu_server": "  server",
    "wakes_first": "wake-ups, first worker",
    "wakes_second": "wake-ups, second worker",
    "wakes_client": "wake-ups, client",
}
"""What is measured of each connection; but for the first two, for one."""


class Sides(Stage):
    """A lab without honest connects, one with them, and perhaps one of an earlier commit that has them too."""

    def __init__(
        self,
        name: str,
        tell: Callable[[str], None],
        *,
        is_pinned: bool,
        workers: int,
        before: tuple[str, ...] | None,
    ) -> None:
        super().__init__(name, tell, is_pinned=is_pinned, workers=workers)
        flags = {"workers": str(workers)}
        honest = flags | {"honest-connect": "all"}
        self._of = {OFF: self.mesh, HONEST: LabMesh(Topology(f"{name}1"), honest)}
        if before is not None:
            self._of[BEFORE] = LabMesh(Topology(f"{name}0"), honest, before)
        self._meshes = list(self._of.values())

    def _open(self) -> None:
        self._tell(f"building {len(self._meshes)} labs")
        for mesh in self._meshes:
            self._open_mesh(mesh)
        self.systems = {name: self._ztun(name, mesh) for name, mesh in self._of.items()}

    def server(self, system: System) -> int:
        """The process of its application."""
        processes = self.topology_of(system).journal.processes()
        return next(pid for name, pid, _ in processes if name == "load-server")


class Turns:
    """Runs them one after another, again and again, and keeps a value of each row for each turn."""

    def __init__(self, stage: Sides, warm_up_s: float, length_s: float) -> None:
        self._stage = stage
        self._times = warm_up_s, length_s
        self.samples: dict[str, Samples] = {
            work.name: {name: {} for name in stage.systems} for work in WORKLOADS
        }
        self.failed = dict.fromkeys(stage.systems, 0)

    def round(self) -> None:
        """Raises BenchError."""
        for work in WORKLOADS:
            for system in self._stage.systems.values():
                for row, value in self._measured(system, work).items():
                    self.samples[work.name][system.name].setdefault(row, []).append(value)

    def _measured(self, system: System, work: Workload) -> dict[str, float]:
        first, second = (
            [pid for pid in pids if pid not in system.control] for pids in (system.first, system.second)
        )
        groups = {"first": first, "second": second, "server": [self._stage.server(system)]}
        client = start(self._stage, system, work, *self._times)
        try:
            expect_begin(self._stage, client, system, work.name)
            before = costs(groups)
            said = json.loads(line(client) or "null")
            after = costs(groups)
        finally:
            end(client)
        if said is None:
            raise failure(self._stage, system, work.name)
        self.failed[system.name] += said["failed"]
        count = said["count"]
        each = {row: (after[row] - before[row]) / count for row in after}
        each |= {"cpu_client": 1e6 * said["cpu_s"] / count, "wakes_client": said["switches"] / count}
        each["cpu"] = each["cpu_first"] + each["cpu_second"]
        return each | {"rate": count / said["seconds"], "p50": said["p50_us"]}


def costs(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Microseconds of CPU and wake-ups so far, of each group."""
    found = {}
    for name, pids in groups.items():
        found[f"cpu_{name}"] = 1e6 * accounting.cpu_s(pids)
        found[f"wakes_{name}"] = float(accounting.sleeps(pids))
    return found


def misses(samples: Mapping[str, Samples], failed: Mapping[str, int]) -> list[str]:
    """A line for each target that is not met. They are those of 32 at once."""
    lines = [f"{name}: {count} connections failed, target none" for name, count in failed.items() if count]
    rate, cpu = (ratio_of(samples["32"], row, HONEST, OFF) for row in ("rate", "cpu"))
    if rate is None or rate < RATE_AT_LEAST:
        lines.append(f"rate: {_shown(rate)} x off, target at least {RATE_AT_LEAST:.2f}")
    if cpu is None or cpu > CPU_AT_MOST:
        lines.append(f"CPU: {_shown(cpu)} x off, target at most {CPU_AT_MOST:.2f}")
    return lines


def table(samples: Mapping[str, Samples]) -> str:
    """Medians, and medians of the ratios of rounds with the range of their middle half."""
    lines = []
    for count, found in samples.items():
        of, others = medians(found), [name for name in found if name != OFF]
        head = "".join(f"{name:>14}" for name in found) + "".join(f"{f'{name} / off':>28}" for name in others)
        lines += ["", f"{count + ' at once':<26}{head}"]
        for row, label in ROWS.items():
            if row not in of[OFF]:
                continue
            digits = 2 if row.startswith("wakes") else 0
            values = "".join(f"{of[name][row]:>14,.{digits}f}" for name in found)
            ratios = "".join(f"{_spread(found, row, name):>28}" for name in others)
            lines.append(f"{label:<26}{values}{ratios}")
    return "\n".join(lines[1:])


def _spread(found: Samples, row: str, name: str) -> str:
    middle = ratio_of(found, row, name, OFF)
    if middle is None:
        return ""
    each = [mine / off for mine, off in zip(found[name][row], found[OFF][row], strict=True)]
    if len(each) < 3:
        return f"{middle:.2f}"
    low, _, high = statistics.quantiles(each, n=4)
    return f"{middle:.3f} [{low:.2f} to {high:.2f}]"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench honest", description="new connections with honest connects and without"
    )
    parser.add_argument("--against", metavar="REV", help="honest connects of another commit too")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of each agent; default 2")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument(
        "--length", type=float, default=LENGTH_S, metavar="S", help=f"of each turn; default {LENGTH_S:g}"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--name", default="ztunhon", help="name of the lab, 9 characters at most")
    options = parser.parse_args(argv)
    refuse_unfit(parser, options, 9)
    if options.workers < 1 or options.length <= 0:
        parser.error("--workers: at least 1; --length: more than 0")
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    before = earlier.install(options.against, ROOT, tell, like=FORM) if options.against else None
    is_pinned, workers = not options.no_pin, options.workers
    with Sides(options.name, tell, is_pinned=is_pinned, workers=workers, before=before) as stage:
        turns, began_s = Turns(stage, WARM_UP_S, options.length), time.monotonic()
        for number in range(options.rounds):
            turns.round()
            tell(f"round {number + 1} of {options.rounds}, {time.monotonic() - began_s:.0f} s")
    figures = {"samples": turns.samples, "failed": turns.failed}
    missed = misses(turns.samples, turns.failed)
    return conclude(table(turns.samples), figures, missed, load, options, tell)
