"""`scripts/bench kubernetes`: what a large cluster costs the agent of one of its nodes, and what labels leave behind.

A node with control plane and agent, real pods of bridge, portmap and ztun-cni on it, and an API that has a cluster of
5,000 pods. Memory is the control process's own over that with an empty cluster; then the labels of pods of this node
change a thousand times; then a namespace's label comes and goes, with all of its pods taken in and let go each time.
Needs root and Debian's containernetworking-plugins.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.lab.agents import ZTUN
from tests.bench.cni import CONFLIST, Runtime
from tests.support import kube, kube_node
from tests.support.cgroups import hierarchy
from tests.support.kube_node import MODE, NODE, KubeNode

PODS, NAMESPACES, HERE, REAL = 5_000, 500, 100, 50
EVENTS, FLIPS, WARM_FLIPS = 1_000, 1_000, 10
PATIENCE_S = 300.0
BUSY_MS = 100.0
MAPS = ("pods", "ifaces", "captures", "owners", "neighbours", "passthru", "hostflows", "wanted", "rates")


@dataclass(frozen=True, slots=True)
class Held:
    """What the control process and the kernel hold for it. `entries`: of all maps that pods have entries in."""

    rss_kb: int
    files: int
    entries: int


@dataclass(frozen=True, slots=True)
class Result:
    empty_kb: int
    full_kb: int
    cpu_ms_per_event: float
    flips: int
    flips_s: float
    agent_ms_per_flip: float
    plane_ms_per_flip: float
    before: Held
    after: Held


class Cluster:
    """`node` with a runtime, and an API that fills."""

    def __init__(self, node: KubeNode) -> None:
        self.node = node
        self._runtime = Runtime(node)
        self._agent = Path(f"/proc/{node.agent_pid()}")

    def close(self) -> None:
        self._runtime.close()

    def fill(self, pods: int) -> None:
        """With pods that are elsewhere, and some of this node that nobody wants; returns when all were heard of."""
        for number in range(NAMESPACES):
            self.node.api.create(kube.namespace(f"ns{number}"))
        for number in range(pods):
            node = NODE if number < HERE - REAL else f"other{number % 50}"
            address = f"10.{100 + number // 60_000}.{number // 250 % 240}.{number % 250 + 1}"
            self.node.api.create(
                kube.pod(
                    f"web{number}",
                    f"ns{number % NAMESPACES}",
                    node=node,
                    address=address,
                    labels={
                        "app": f"web{number % 100}",
                        "pod-template-hash": f"{number % 1000:x}",
                    },
                    serviceAccountName=f"sa{number % 100}",
                )
            )
        plane = self.node.machine.logs / "control-plane.log"
        self.node.until(lambda: served_addresses(plane.read_text()) >= pods, "all are served", PATIENCE_S)
        self.rest()

    def rest(self) -> None:
        """Until the control process does next to nothing for a second."""
        while True:
            before_ms = self.node.agent_cpu_ms()
            time.sleep(1)
            if self.node.agent_cpu_ms() - before_ms < BUSY_MS:
                return

    def change_labels(self, events: int) -> float:
        """Milliseconds of CPU that the control process takes until it has heard of so many changes."""
        before_ms = self.node.agent_cpu_ms()
        for number in range(events):
            which = number % (HERE - REAL)
            changed: Any = {"labels": {"turn": str(number)}}
            self.node.api.change("pods", f"web{which}", f"ns{which % NAMESPACES}", metadata=changed)
        # News come in order: what this one leads to shows that the others were heard of.
        wanted: Any = {"labels": {MODE: "ambient"}}
        self.node.api.change("pods", "web0", "ns0", metadata=wanted)
        self.node.until(
            lambda: "ns0/web0" in str(self.node.status()["waiting"]), "the last is heard", PATIENCE_S
        )
        took_ms = self.node.agent_cpu_ms() - before_ms
        unwanted: Any = {"labels": {MODE: None}}
        self.node.api.change("pods", "web0", "ns0", metadata=unwanted)
        self.node.until(lambda: "ns0/web0" not in str(self.node.status()["waiting"]), "it is let go")
        return took_ms

    def make_real(self, count: int) -> None:
        """Pods with an interface and a process, in a namespace that is not in the mesh yet."""
        self.node.api.create(kube.namespace("flip"))
        conflist = json.loads(self.node.inside("/etc/cni/net.d/10-pods.conflist").read_text())
        for number in range(count):
            name = f"flip{number}"
            uid = self.node.announce(name, "flip")
            group = hierarchy() / self.node.machine.cgroup / f"kubepods/besteffort/pod{uid}"
            made = self._runtime.call(
                "ADD", f"{number:064x}", conflist, namespace="flip", pod=name, uid=uid, group=str(group)
            )
            self.node.has_started(name, made["result"]["ips"][0]["address"].partition("/")[0], "flip")

    def flip(self, count: int) -> None:
        """The label comes, all pods are taken in; it goes, they are let go: two flips."""
        names = [f"flip{number}" for number in range(REAL)]
        for is_wanted in [True, False] * (count // 2):
            label: Any = {"labels": {MODE: "ambient" if is_wanted else None}}
            self.node.api.change("namespaces", "flip", metadata=label)
            wanted = {"enabled"} if is_wanted else {None}
            self.node.until(
                lambda wanted=wanted: {self.node.says(name, "flip") for name in names} == wanted,
                "every pod is as its label says",
                PATIENCE_S,
            )

    def held(self) -> Held:
        """When nothing is going on."""
        self.node.until(lambda: self.node.state() == "READY", "it is at rest")
        entries = 0
        for name in MAPS:
            dumped = json.loads(self.node.machine.run(*ZTUN, "maps", "dump", name, "-o", "json"))
            entries += len(dumped if isinstance(dumped, list) else dumped[name])
        return Held(self.rss_kb(), len(list((self._agent / "fd").iterdir())), entries)

    def rss_kb(self) -> int:
        lines = (self._agent / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def served_addresses(log: str) -> int:
    """What the control plane said last."""
    found = re.findall(r"serving (\d+) addresses", log)
    return int(found[-1]) if found else 0


def measure(pods: int, flips: int, tell: Callable[[str], None]) -> Result:
    with (
        tempfile.TemporaryDirectory() as directory,
        kube_node.running(Path(directory), json.dumps(CONFLIST)) as node,
    ):
        cluster = Cluster(node)
        try:
            empty_kb = cluster.rss_kb()
            tell(f"{empty_kb} kB in an empty cluster")
            cluster.fill(pods - REAL)
            full_kb = cluster.rss_kb()
            tell(f"{full_kb} kB with {pods} pods in it")
            cpu_ms = cluster.change_labels(EVENTS) / EVENTS
            tell(f"{cpu_ms:.2f} ms of CPU for each change of a pod of this node")
            cluster.make_real(REAL)
            cluster.flip(WARM_FLIPS)
            before = cluster.held()
            began_s, agent_ms, plane_ms = time.monotonic(), node.agent_cpu_ms(), node.control_plane_cpu_ms()
            for done in range(0, flips, 100):
                cluster.flip(min(100, flips - done))
                tell(f"{done + min(100, flips - done)} flips: {cluster.held()}")
            flips_s = time.monotonic() - began_s
            agent_ms, plane_ms = node.agent_cpu_ms() - agent_ms, node.control_plane_cpu_ms() - plane_ms
            return Result(
                empty_kb,
                full_kb,
                cpu_ms,
                flips,
                flips_s,
                agent_ms / flips,
                plane_ms / flips,
                before,
                cluster.held(),
            )
        finally:
            cluster.close()


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench kubernetes", description="what a large cluster costs the agent of a node"
    )
    parser.add_argument("--pods", type=int, default=PODS, metavar="N", help=f"in the cluster; default {PODS}")
    parser.add_argument("--flips", type=int, default=FLIPS, metavar="N", help=f"of a label; default {FLIPS}")
    parser.add_argument("--check", action="store_true", help="exit 1 when flips leave something behind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures")
    options = parser.parse_args(argv)
    if not 2 * HERE <= options.pods <= 15_000:
        parser.error(f"--pods: {2 * HERE} to 15000")
    if options.flips < 2:
        parser.error("--flips: at least 2")
    load = os.getloadavg()[0]
    found = measure(options.pods, options.flips, tell)
    sys.stdout.write(
        f"{options.pods} pods and {NAMESPACES} namespaces, {HERE} pods on this node: the control process has "
        f"{(found.full_kb - found.empty_kb) / 1024:.1f} MB more than the {found.empty_kb / 1024:.1f} MB in an empty "
        f"cluster\n{EVENTS} changes of pods of this node: {found.cpu_ms_per_event * EVENTS / 1000:.2f} s of CPU\n"
        f"{found.flips} flips of the label of a namespace with {REAL} pods, {found.flips_s:.0f} s, of CPU a flip "
        f"{found.agent_ms_per_flip / 1000:.2f} s of the control process and {found.plane_ms_per_flip / 1000:.2f} s of "
        "the control plane: "
        f"maps {found.before.entries} -> {found.after.entries} entries, files {found.before.files} -> "
        f"{found.after.files}, RSS {found.before.rss_kb / 1024:.1f} -> {found.after.rss_kb / 1024:.1f} MB\n"
        f"load before: {load:.1f}, {os.cpu_count()} cores\n"
    )
    if options.json:
        options.json.write_text(json.dumps(asdict(found) | {"load_before": load}, indent=1) + "\n")
    left = (found.before.entries, found.before.files) != (found.after.entries, found.after.files)
    if left:
        tell("flips leave something behind")
    return 1 if options.check and left else 0
