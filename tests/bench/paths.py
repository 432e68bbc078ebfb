"""`scripts/bench node`: two pods of one node, by each path that `--local-path` has, and without a mesh.

A lab for each path, all of them alive at the same time and measured in turns. Everything that carries bytes is on one
core, so that what a path costs is missing elsewhere. Needs root.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.lab.agents import LabMesh
from agent.lab.topology import Topology
from tests.bench import accounting
from tests.bench.conclusion import conclude
from tests.bench.lab_options import refuse_unfit
from tests.bench.report import METRICS, Samples, medians, ratio_of
from tests.bench.rounds import WORKLOADS, Rounds
from tests.bench.systems import APP_PORT, HERE, Stage, System, pod_of

HBONE, HOST, HAND_OVER, DIRECT = "hbone", "host", "handover", "direct"
PATHS = (HBONE, HOST, HAND_OVER)
NODE, CORE = "node-a", 0
ROUNDS, WARM_UP_S, LENGTH_S = 5, 0.3, 1.0
KINDS = frozenset({"upload", "download", "exchange", "connect"})
LEAST, MOST = {"upload_1": 2.5, "download_1": 2.5, "upload_8": 2.5, "download_8": 2.5}, {"p50_1": 0.5}
"""Bounds on `host` over `hbone`."""


class Paths(Stage):
    """A lab for each path; the bare pair is in the first one."""

    manifests = HERE / "node"

    def __init__(self, name: str, tell: Callable[[str], None], *, is_pinned: bool) -> None:
        super().__init__(name, tell, is_pinned=is_pinned, workers=1)
        flags = {"workers": "1"}
        self._meshes = [
            LabMesh(
                self.topology if path == HBONE else Topology(f"{name}{path[2]}"), flags | {"local-path": path}
            )
            for path in PATHS
        ]
        self.mesh = self._meshes[0]

    def core(self, node: str) -> int:
        return CORE if self._is_pinned else -1

    def _open(self) -> None:
        self._tell("building three labs: two nodes, four pods of one of them")
        for mesh in self._meshes:
            self._open_mesh(mesh)
        self._serve(self.mesh, "bare-server")
        for path, mesh in zip(PATHS, self._meshes, strict=True):
            self.systems[path] = self._path(path, mesh)
        client, server = self.pod("bare-client"), self.pod("bare-server")
        self.systems[DIRECT] = System(DIRECT, client, (str(server.address(4)), APP_PORT))

    def _path(self, name: str, mesh: LabMesh) -> System:
        workers = tuple(worker["pid"] for worker in mesh.status(NODE)["workers"])
        if self._is_pinned:
            accounting.pin(workers, CORE)
        target = str(pod_of(mesh, "server").address(4)), APP_PORT
        return System(name, pod_of(mesh, "client"), target, first=workers)


def misses(samples: Samples) -> list[str]:
    """A line for each target that is not met."""
    found = {metric: ratio_of(samples, metric, HOST, HBONE) for metric in (*LEAST, *MOST)}
    lines = []
    for metric, value in found.items():
        shown = f"{metric}: host is {'not measured' if value is None else f'{value:.2f} x hbone'}, target at"
        if metric in LEAST and (value is None or value < LEAST[metric]):
            lines.append(f"{shown} least {LEAST[metric]:g}")
        if metric in MOST and (value is None or value > MOST[metric]):
            lines.append(f"{shown} most {MOST[metric]:g}")
    return lines


def table(samples: Samples) -> str:
    """Markdown: the medians of each path, and of rounds the ratio of those without TLS, and of none, over `hbone`."""
    found, others = medians(samples), (HOST, HAND_OVER, DIRECT)
    lines = [
        "| | unit | hbone | host | handover | direct | host/hbone | handover/hbone | direct/hbone |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in METRICS:
        if row.key not in found[HBONE]:
            continue
        values = [_number(found[path].get(row.key), row.digits) for path in (HBONE, *others)]
        ratios = [_number(ratio_of(samples, row.key, path, HBONE), 2) for path in others]
        lines.append(f"| {row.label} | {row.unit} | {' | '.join((*values, *ratios))} |")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench node", description="between two pods of one node, by each --local-path"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, medians and ratios")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--name", default="ztunnode", help="name of the lab, 9 characters at most")
    options = parser.parse_args(argv)
    refuse_unfit(parser, options, 9)
    load = os.getloadavg()[0]
    with Paths(options.name, tell, is_pinned=not options.no_pin) as stage:
        running = Rounds(stage, WARM_UP_S, LENGTH_S, tell)
        running.run(options.rounds, tuple(each for each in WORKLOADS if each.kind in KINDS))
    figures: dict[str, Mapping[str, object]] = {
        "samples": running.samples,
        "medians": medians(running.samples),
    }
    return conclude(table(running.samples), figures, misses(running.samples), load, options, tell)
