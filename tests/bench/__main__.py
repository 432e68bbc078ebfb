"""`python -m tests.bench`: the command line of the bench; scripts/bench calls it. Needs root.

Labs are built twice: for the memory of fresh proxies, then for the rounds. All are removed whatever happens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from agent import FORM
from agent.lab.blueprint import LabError
from tests.bench import (
    changes,
    cni,
    denied,
    dns,
    double,
    earlier,
    flood,
    honest,
    kubernetes,
    neighbours,
    pairs,
    paths,
    ports,
    profiles,
    redirect,
    report,
    rotation,
    starts,
    survive,
    sweeps,
)
from tests.bench.earlier import NoSuchBuild
from tests.bench.envoy import CONCURRENCY
from tests.bench.lab_options import refuse_unfit
from tests.bench.rounds import (
    IDLE_CONNECTIONS,
    MANY,
    QUICK_MANY,
    WORKLOADS,
    BenchError,
    Idle,
    Rounds,
    Samples,
)
from tests.bench.strangers import COUNT, QUICK_COUNT, Strangers
from tests.bench.systems import Stage
from tests.support.envoy import binary

ROOT = Path(__file__).parents[2]
ROUNDS, WARM_UP_S, LENGTH_S = 7, 0.3, 1.3
QUICK_ROUNDS, QUICK_WARM_UP_S, QUICK_LENGTH_S = 2, 0.1, 0.35
BUSY_LOAD = 0.5
MEMORY, CROWDS = "memory", "strangers"
NAMES = (MEMORY, *(workload.name for workload in WORKLOADS), MANY.name, CROWDS)
"""Of what is measured, in its order."""
NOTES = """\
Envoy is behind the same eBPF capture as ztun, both ends, and dials in the client pod's name as ztun does; where to
is fixed in its configuration. ztun runs with policy (3), access log and metrics; Envoy without any."""


BEGAN_S = time.monotonic()
OTHERS = {
    "changes": changes.main,
    "cni": cni.main,
    "denied": denied.main,
    "dns": dns.main,
    "double": double.main,
    "kubernetes": kubernetes.main,
    "start": starts.main,
    "flood": flood.main,
    "honest": honest.main,
    "neighbours": neighbours.main,
    "node": paths.main,
    "pairs": pairs.main,
    "ports": ports.main,
    "profile": profiles.main,
    "redirect": redirect.main,
    "rotation": rotation.main,
    "survive": survive.main,
    "--plot": sweeps.main,
}
"""Each has a command line of its own."""


def tell(text: str) -> None:
    sys.stderr.write(f"bench: {time.monotonic() - BEGAN_S:5.1f} s  {text}\n")
    sys.stderr.flush()


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="ztun, Envoy and no proxy, side by side"
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, less exact")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when a target of scripts/targets.toml is missed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, medians and ratios")
    parser.add_argument(
        "--against",
        metavar="REV",
        help="measure another commit of ztun too, in the same run (the column `before`)",
    )
    parser.add_argument(
        "--honest",
        action="store_true",
        help="measure ztun with --honest-connect=all too, by new connections (the column `honest`)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=CONCURRENCY,
        metavar="N",
        help="of each agent of ztun; default as Envoy's, 2",
    )
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument(
        "--only",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="WORKLOAD,...",
        help=f"these alone, and no target for the rest: {', '.join(NAMES)}",
    )
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument(
        "--name", default="ztunbench", help="name of the lab it builds, 10 characters at most"
    )
    parsed = parser.parse_args(argv)
    if parsed.workers < 1:
        parser.error("--workers: at least 1")
    if unknown := [name for name in parsed.only if name not in NAMES]:
        parser.error(f"--only: there is no workload {unknown[0]!r}")
    if "half" in parsed.only and "exchange_64" not in parsed.only:
        parser.error("--only: half takes a part of the rate of exchange_64: name that, too")
    # The labs of the other commit and of honest connects are called like this one, with a 0 and a 1.
    refuse_unfit(parser, parsed, longest=9 if parsed.against or parsed.honest else 10)
    return parsed


def measure(options: argparse.Namespace) -> tuple[Samples, dict[str, Any]]:
    """Memory, then the rounds; every sample, and what is worth knowing about the run."""
    before = earlier.install(options.against, ROOT, tell, like=FORM) if options.against else None

    def stage() -> Stage:
        return Stage(
            options.name,
            tell,
            is_pinned=not options.no_pin,
            before=before,
            with_honest=options.honest,
            workers=options.workers,
        )

    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    times = (QUICK_WARM_UP_S, QUICK_LENGTH_S) if options.quick else (WARM_UP_S, LENGTH_S)
    about = machine() | {"rounds": rounds, "warm_up_s": times[0], "length_s": times[1]}
    about |= {"pinned": not options.no_pin, "idle_connections": IDLE_CONNECTIONS}
    wanted = options.only or NAMES
    idle: Samples = {}
    crowds: Samples = {}
    if MEMORY in wanted:
        with stage() as fresh:
            idle = Idle(fresh, tell).run()
            fresh.check_captured()
    with stage() as measured:
        running = Rounds(measured, *times, tell)
        running.run(rounds, [workload for workload in WORKLOADS if workload.name in wanted])
        if MANY.name in wanted:
            running.run(1, (QUICK_MANY if options.quick else MANY,))
        measured.check_captured()
        if CROWDS in wanted:
            crowds = Strangers(measured, tell, count=QUICK_COUNT if options.quick else COUNT).run()
    about |= {
        "only": list(options.only),
        "against": options.against,
        "negotiated": running.negotiated,
        "failed_connections": running.failed,
    }
    samples = {
        name: values | idle.get(name, {}) | crowds.get(name, {}) for name, values in running.samples.items()
    }
    return samples, about


def machine() -> dict[str, Any]:
    """Date, cores, kernel, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "envoy": version.split("version:")[-1].strip(),
        "load_before": os.getloadavg()[0],
    }


def show(samples: Samples, about: dict[str, Any], targets: list[report.Target]) -> None:
    out = sys.stdout
    out.write(
        f"{about['date']}, {about['cores']} x {about['cpu']}, Linux {about['kernel']}, Python {about['python']}, "
        f"Envoy {about['envoy'].split('/')[1] if '/' in about['envoy'] else about['envoy']}\n"
        f"medians of {about['rounds']} interleaved rounds of {about['length_s']:g} s; "
        f"{'each node on a core of its own' if about['pinned'] else 'nothing pinned'}; "
        f"load before {about['load_before']:.2f}\n\n"
    )
    out.write(report.table(samples, targets) + "\n\n" + NOTES + "\n")
    if about["only"]:
        out.write(f"Nothing else was measured: --only {','.join(about['only'])}\n")
    for name, negotiated in about["negotiated"].items():
        out.write(f"Handshake with {name}: {negotiated}\n")
    for name, failed in about["failed_connections"].items():
        out.write(f"New connections that failed with {name}: {failed}\n")


def stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """The exit status, whichever bench it is."""
    try:
        return run(argv)
    except (LabError, BenchError, NoSuchBuild) as error:
        tell(str(error))
        return 2
    except KeyboardInterrupt:
        tell("interrupted; everything is removed")
        return 130


def run(argv: list[str]) -> int:
    """Raises LabError, BenchError, NoSuchBuild, KeyboardInterrupt."""
    if argv and argv[0] in OTHERS:
        if os.geteuid() != 0:
            tell("it makes network namespaces and loads eBPF programs: run it as root")
            return 2
        signal.signal(signal.SIGTERM, stop)
        return OTHERS[argv[0]](argv[1:], tell)
    options = arguments(argv)
    if os.geteuid() != 0:
        tell("it makes network namespaces and loads eBPF programs: run it as root")
        return 2
    if (os.cpu_count() or 1) < 2:
        tell("it needs two cores, one for each node")
        return 2
    if os.getloadavg()[0] > BUSY_LOAD:
        tell(
            f"the machine is busy (load {os.getloadavg()[0]:.2f}): the figures will be worse and less certain"
        )
    signal.signal(signal.SIGTERM, stop)
    commit = earlier.commit_of(options.against, ROOT) if options.against else ""
    targets = [each for each in report.targets() if each.is_for(commit, options.workers)]
    samples, about = measure(options)
    show(samples, about, targets)
    if options.only:
        targets = report.measured(samples, targets)
    missed = report.misses(samples, targets)
    if options.json:
        options.json.write_text(json.dumps(report.document(samples, about, missed), indent=1) + "\n")
    for line in missed:
        tell(f"target missed: {line}")
    tell("done")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
