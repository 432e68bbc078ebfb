"""`python -m tests.chaos`: the command line of chaos; scripts/chaos calls it, in namespaces of its own. Needs root."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from agent.lab.blueprint import NODES
from tests.chaos.catalogue import FAULTS
from tests.chaos.run import Told, run
from tests.chaos.schedule import TOGETHER, Step, steps
from tests.chaos.stage import staged

FOR_S, CALM, EVERY_S = 300.0, 5, 0.15
BEGAN_S = time.monotonic()


def tell(line: str) -> None:
    sys.stderr.write(f"chaos {time.monotonic() - BEGAN_S:6.1f} s: {line}\n")
    sys.stderr.flush()


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="a mesh under traffic, a seeded sequence of faults, and checkers"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sequence; default 1")
    parser.add_argument(
        "--for", dest="for_s", type=float, default=FOR_S, metavar="S", help=f"seconds; default {FOR_S:g}"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="so many at most")
    parser.add_argument("--faults", metavar="NAME,...", help="these alone; default all")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="X", help="times the bounds; more on a busy machine"
    )
    parser.add_argument(
        "--together",
        type=float,
        default=TOGETHER,
        metavar="SHARE",
        help=f"of steps that have two faults; default {TOGETHER:g}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every step")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="where logs go when something is violated")
    parser.add_argument("--list", action="store_true", help="the faults, and what each may cost")
    options = parser.parse_args(argv)
    options.faults = options.faults.split(",") if options.faults else list(FAULTS)
    for name in options.faults:
        if name not in FAULTS:
            parser.error(f"no such fault: {name}; --list has all")
    return options


def listed() -> str:
    rows = []
    for name, fault in FAULTS.items():
        may = fault.allowed
        costs = [f"live {'/'.join(sorted(may.live))}"] if may.live else []
        costs += [f"new {'/'.join(sorted(may.new))}"] if may.new else []
        costs_text = f"{', '.join(costs)} ({may.reach})" if costs else "nothing lost"
        rows.append(f"{name:24} {fault.says}; {costs_text}; healed in {may.heals_s:g} s")
    return "\n".join(rows) + "\n"


def sequence(options: argparse.Namespace) -> list[Step]:
    spans = {name: FAULTS[name].span for name in options.faults}
    alone = frozenset(name for name, fault in FAULTS.items() if fault.is_alone)
    return list(
        itertools.islice(steps(options.seed, spans, NODES, alone, options.together), options.steps or 10_000)
    )


def summary(told: list[Told], seed: int) -> str:
    visits = sum(each.visits for each in told)
    healed: dict[str, float] = {}
    for each in told:
        if each.healed_s is not None:
            healed[each.step.fault] = max(healed.get(each.step.fault, 0.0), each.healed_s)
    found = [line for each in told for line in each.violations]
    many = Counter(each.step.fault for each in told)
    lines = [
        f"{name:24} {many[name]:3} x, healed within {healed.get(name, float('nan')):.1f} s"
        for name in sorted(many)
    ]
    lines.append(f"seed {seed}: {len(told)} steps, {visits} new connections, {len(found)} violations")
    if found:
        lines.append("the sequence up to the last of them:")
        last = max(number for number, each in enumerate(told) if each.violations)
        for number, each in enumerate(told[: last + 1], 1):
            lines.append(f"  {number}. {each.step}")
            lines += [f"     VIOLATION: {line}" for line in each.violations]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    options = arguments(argv)
    if options.list:
        sys.stdout.write(listed())
        return 0
    # Threads of grpc would be made anew in the namespace of whoever forks.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    with (
        tempfile.TemporaryDirectory(prefix="ztun-chaos-") as directory,
        staged(Path(directory), CALM, EVERY_S, options.patience, tell) as stage,
    ):
        told = run(stage, sequence(options), time.monotonic() + options.for_s, tell)
        is_violated = any(each.violations for each in told)
        if is_violated and options.logs:
            shutil.copytree(stage.world.lab.journal.logs, options.logs, dirs_exist_ok=True)
    sys.stdout.write(summary(told, options.seed))
    if options.json:
        figures = {
            "seed": options.seed,
            "patience": options.patience,
            "steps": [each.as_json() for each in told],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if is_violated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
