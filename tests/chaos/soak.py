"""`python -m tests.chaos.soak`: a mesh at a steady load for hours, and whether anything grows. Needs root.

The lab and the applications are those of chaos, without a fault. Certificates live for a minute, so that an hour renews
them as often as two months do by default. What a process holds is asked of /proc, what the kernel holds of the maps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from redirect.layout import MAPS
from redirect.maps import Maps
from redirect.pins import Pins
from tests.chaos.__main__ import tell
from tests.chaos.slopes import Slope, remarks, slope
from tests.chaos.stage import Stage, staged
from tests.chaos.verdict import Seen, violations

FOR_S, SAMPLES, CALM, EVERY_S = 7200.0, 240, 20, 0.025
LEAST_S = 5.0
KINDS = ("hash", "lru_hash", "lpm_trie", "sockmap")
"""Maps whose number of entries says something."""
SLACK = {"MB": 2.0, "descriptors": 4.0, "threads": 1.0, "entries": 16.0}
"""What each may grow by whatever it was."""
Series = dict[str, list[tuple[float, float]]]


def held(stage: Stage) -> dict[str, float]:
    """What each process and each map has, by name and unit. Workers of a node are one: connections move among them."""
    found: dict[str, float] = defaultdict(float)
    for node in stage.nodes:
        control = stage.control(node)
        groups = {f"{node} control": [control.pid] if control else [], f"{node} workers": stage.workers(node)}
        for who, pids in groups.items():
            for pid in pids:
                with suppress(psutil.NoSuchProcess):
                    _add(found, who, psutil.Process(pid))
        mesh = stage.world.mesh
        with Maps(Pins(mesh.instance(node), mesh.run_dir(node)).generation) as maps:
            for name in (name for name in MAPS if MAPS[name].kind in KINDS):
                found[f"{node} map {name}, entries"] = float(len(list(maps._items(name))))
    if stage.plane is not None:
        _add(found, "control plane", stage.plane)
    return dict(found)


def _add(found: dict[str, float], who: str, process: psutil.Process) -> None:
    found[f"{who}, MB"] += process.memory_full_info().pss / 1e6
    found[f"{who}, descriptors"] += process.num_fds()
    found[f"{who}, threads"] += process.num_threads()


def cpu_s(stage: Stage) -> float:
    """Of all processes of ztun so far."""
    pids = [pid for node in stage.nodes for pid in stage.processes(node)]
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def sampled(stage: Stage, for_s: float, seen: Seen) -> tuple[Series, float]:
    """What is held, at equal distances, and the share of the machine's cores that ztun took."""
    series: Series = defaultdict(list)
    began_s, began_cpu_s = time.monotonic(), cpu_s(stage)
    every_s = max(LEAST_S, for_s / SAMPLES)
    said_s = began_s
    while (now_s := time.monotonic()) < began_s + for_s:
        for name, value in held(stage).items():
            series[name].append((now_s - began_s, value))
        stage.collect(now_s - every_s, seen, 0.0)
        if now_s - said_s > 60:
            said_s = now_s
            tell(
                f"{(now_s - began_s) / 60:.0f} minutes, {sum(map(len, seen.visits.values()))} new connections"
            )
        time.sleep(max(0.0, every_s - (time.monotonic() - now_s)))
    took_s = time.monotonic() - began_s
    return series, (cpu_s(stage) - began_cpu_s) / took_s / (os.cpu_count() or 1)


def logged(stage: Stage) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in sorted(stage.world.lab.journal.logs.glob("*.log")):
        if path.name.startswith(("agent-", "control-plane")):
            found.update(remarks(path.read_text(errors="replace").splitlines()))
    return found


def slopes_of(series: Series) -> list[Slope]:
    return [slope(name, rows, SLACK[name.rpartition(", ")[2]]) for name, rows in sorted(series.items())]


def seconds(text: str) -> float:
    """`90`, `90s`, `5m`, `2h`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}: want seconds, or a number with s, m or h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="a mesh at a steady load, and whether anything grows"
    )
    parser.add_argument(
        "--for", dest="for_s", type=seconds, default=FOR_S, metavar="TIME", help="as 5m or 2h; default 2h"
    )
    parser.add_argument(
        "--every",
        type=float,
        default=EVERY_S,
        metavar="S",
        help=f"between new connections of a path; default {EVERY_S:g}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    seen = Seen()
    with (
        tempfile.TemporaryDirectory(prefix="ztun-soak-") as directory,
        staged(Path(directory), CALM, options.every, 1.0, tell) as stage,
    ):
        stage.applications.revive()
        series, share = sampled(stage, options.for_s, seen)
        stage.collect(time.monotonic(), seen, 30.0)
        lines = logged(stage)
    slopes = slopes_of(series)
    found = violations(seen, [], float("inf")) + [f"{each.name} grows" for each in slopes if not each.is_flat]
    many = sum(map(len, seen.visits.values()))
    sys.stdout.write("\n".join(map(str, slopes)) + "\n")
    sys.stdout.write(f"{many} new connections; ztun took {share:.0%} of the machine\n")
    sys.stdout.write(f"log lines above info: {lines.total()}\n")
    sys.stdout.writelines(f"  {count:6} x {text}\n" for text, count in lines.most_common())
    sys.stdout.writelines(f"VIOLATION: {line}\n" for line in found)
    if options.json:
        figures = {"series": series, "slopes": [asdict(each) for each in slopes], "log": dict(lines)}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
