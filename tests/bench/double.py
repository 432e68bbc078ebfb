"""`scripts/bench double`: bulk through the gateway of another network, HBONE in HBONE, beside HBONE alone. Needs root.

One client and one server, in turns by the server's own address (single HBONE), by a gateway that the server's agent
has captured, and by a gateway that is Envoy; and three Envoys that do the same: client's, gateway's and server's.
Client and first proxy share a core; gateway, second proxy and server the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.lab.blueprint import LabError
from agent.model.listener import HBONE
from tests.bench import envoy, report
from tests.bench.conclusion import conclude
from tests.bench.lab_options import refuse_unfit
from tests.bench.report import Samples, ratio_of
from tests.bench.rounds import WORKLOADS, Rounds
from tests.bench.systems import (
    APP_PORT,
    CLIENT_ID,
    FIRST,
    GATEWAY_ID,
    HERE,
    SECOND,
    START_TIMEOUT_S,
    Role,
    Stage,
    System,
)

ROUNDS, WARM_UP_S, LENGTH_S = 3, 0.3, 1.3
BULK = tuple(each for each in WORKLOADS if each.kind in ("upload", "download"))
SINGLE, BY_OURS, BY_ENVOY, ENVOY = "single", "by-ours", "by-envoy", "envoy"
SERVICES = {BY_OURS: ("10.96.78.1", 80), BY_ENVOY: ("10.96.78.2", 80)}
"""As the manifests have them: behind each gateway the same server."""
RELAYS = Role(envoy.GATEWAY, HBONE.port, HBONE.port, GATEWAY_ID, CLIENT_ID, "server")
BETWEEN = Role(envoy.GATEWAY, HBONE.port + 1, HBONE.port, GATEWAY_ID, CLIENT_ID, "envoy-server")
TWICE = replace(FIRST, template=envoy.ORIGINATE_TWICE, next_port=BETWEEN.port, next_pod="envoy-gateway")


class Networks(Stage):
    """All ways are between the same two nodes; the gateways are pods of node-b."""

    manifests = HERE / "gateways"

    def _open(self) -> None:
        self._tell("building the lab: two nodes, six pods")
        self._open_mesh(self.mesh)
        gateway = self.pod("gateway")
        self.mesh.enroll(gateway)
        self.mesh.wait_announced(gateway)
        self._tell("starting the gateways and Envoy")
        self._serve(self.mesh, "envoy-server")
        self._forward()
        relays, between = (self._start_gateway(role) for role in (RELAYS, BETWEEN))
        ztun = self._pair(SINGLE, self.mesh)
        captured = (
            self._start_envoy(self.pod("envoy-client"), TWICE),
            self._start_envoy(self.pod("envoy-server"), SECOND),
        )
        target = (str(self.pod("envoy-server").address(4)), APP_PORT)
        found = (
            ztun,
            replace(ztun, name=BY_OURS, target=SERVICES[BY_OURS]),
            replace(ztun, name=BY_ENVOY, target=SERVICES[BY_ENVOY], second=(*ztun.second, relays)),
            System(ENVOY, self.pod("envoy-client"), target, captured[:1], (between, captured[1])),
        )
        self.systems = {system.name: system for system in found}

    def _forward(self) -> None:
        """What our gateway's application is."""
        pod, server = self.pod("gateway"), self.pod("server").address(4)
        to = (str(self.pod("envoy-gateway").netns), str(server), str(HBONE.port), str(self.core(pod.node)))
        command = [sys.executable, "-S", "-E", str(HERE / "forward.py"), str(APP_PORT), *to]
        self.topology.processes.start_ready("forward", pod.netns, command)

    def _start_gateway(self, role: Role) -> int:
        """An Envoy in a pod that nobody has captured; its process."""
        pod, name = self.pod("envoy-gateway"), f"envoy-gateway-{role.port}"
        command = envoy.command(self._envoy_config(role), role.port + 1000)
        process = self.topology.processes.start(name, pod.netns, command)
        end_s = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < end_s:
            if listens(process.pid, role.port):
                self._pin((process.pid,), pod.node)
                return process.pid
            time.sleep(0.02)
        raise LabError(f"{name} does not start: {self.mesh.log(name).read_text()[-2000:]}")


def listens(pid: int, port: int) -> bool:
    """Whether somebody has the port in the namespace of the process."""
    rows = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def compared(samples: Samples) -> Samples:
    """The ratios that targets are about: each gateway's over HBONE alone, and over what Envoys do."""
    found: dict[str, list[float]] = {}
    for way in (BY_OURS, BY_ENVOY):
        for to in (SINGLE, ENVOY):
            for load in BULK:
                value = ratio_of(samples, load.name, way, to)
                if value is not None:
                    found[f"double_{way}_{to}_{load.name}"] = [value]
    return {"ztun": found}


def table(samples: Samples) -> str:
    """Markdown: medians of each way, and ratios of rounds."""
    found = report.medians(samples)
    ways = (SINGLE, BY_OURS, BY_ENVOY, ENVOY)
    pairs = [(way, to) for to in (SINGLE, ENVOY) for way in (BY_OURS, BY_ENVOY)]
    titles = [*ways, *(f"{way}/{to}" for way, to in pairs)]
    lines = [f"| | unit | {' | '.join(titles)} |", f"|---|---|{'--:|' * len(titles)}"]
    for row in report.METRICS:
        if row.key not in found[SINGLE]:
            continue
        values = [f"{found[way][row.key]:.{row.digits}f}" for way in ways]
        ratios = [f"{ratio_of(samples, row.key, way, to) or 0:.2f}" for way, to in pairs]
        lines.append(f"| {row.label} | {row.unit} | {' | '.join((*values, *ratios))} |")
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench double", description="bulk through gateways of other networks"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--workers", type=int, default=envoy.CONCURRENCY, metavar="N", help="as Envoy's, 2")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, medians and ratios")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    parser.add_argument("--name", default="ztundouble", help="name of the lab, 10 characters at most")
    options = parser.parse_args(argv)
    refuse_unfit(parser, options, 10)
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    with Networks(options.name, tell, is_pinned=not options.no_pin, workers=options.workers) as stage:
        running = Rounds(stage, WARM_UP_S, LENGTH_S, tell)
        running.run(options.rounds, BULK)
        stage.check_captured()
    ratios = compared(running.samples)
    targets = [target for target in report.targets() if target.bench == "double"]
    figures = {
        "samples": running.samples,
        "medians": report.medians(running.samples),
        "ratios": ratios["ztun"],
    }
    return conclude(table(running.samples), figures, report.misses(ratios, targets), load, options, tell)
