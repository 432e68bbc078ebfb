"""`scripts/bench flood`: only crowds of strangers at the tunnel port of ztun and of Envoy, with quiet times between."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.bench import report
from tests.bench.lab_options import refuse_unfit
from tests.bench.strangers import COUNT, KINDS, Strangers
from tests.bench.systems import Stage

ROUNDS = 3
LEAST = 1_000


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench flood", description="what crowds of strangers at the tunnel port cost others"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"in a crowd; default {COUNT}")
    parser.add_argument(
        "--kind", action="append", choices=list(KINDS), help="of strangers; default all, may be repeated"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, medians and ratios")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--name", default="ztunflood", help="name of the lab, 10 characters at most")
    options = parser.parse_args(argv)
    refuse_unfit(parser, options, 10)
    if options.count < LEAST:
        parser.error(f"--count: at least {LEAST}")
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load, files = os.getloadavg()[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with Stage(options.name, tell, is_pinned=not options.no_pin) as stage:
        strangers = Strangers(
            stage, tell, count=options.count, rounds=options.rounds, kinds=options.kind or tuple(KINDS)
        )
        samples = {name: values for name, values in strangers.run().items() if values}
        stage.check_captured()
    measured = samples["ztun"].keys()
    targets = [
        replace(target, metrics=chosen)
        for target in report.targets()
        if target.to == report.ITSELF
        and (chosen := tuple(name for name in target.metrics if name in measured))
    ]
    about = {"count": options.count, "rounds": options.rounds, "load_before": load, "files": files}
    sys.stdout.write(
        f"{options.count} strangers, medians of {options.rounds} rounds; a process may open {files} files; "
        f"load before {load:.2f}\n\n{report.table(samples, targets)}\n"
    )
    missed = report.misses(samples, targets)
    if options.json:
        options.json.write_text(json.dumps(report.document(samples, about, missed), indent=1) + "\n")
    for text in missed:
        tell(f"target missed: {text}")
    return 1 if options.check and missed else 0
