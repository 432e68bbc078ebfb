"""The cluster, ztun in it by its manifests, and the facts; everything is taken down at the end, however it comes.

python -m tests.cluster WORK BINARIES IMAGE [--keep] [--helm] [--istiod PATH]     as scripts/cluster-test calls it
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.cluster import charts, istiod
from tests.cluster.facts import FACTS, Fact
from tests.cluster.kubernetes import Kubernetes, images, wait
from tests.cluster.machine import Machine, joined
from tests.cluster.services import Services
from tests.cluster.stage import Stage

NODES = ("node-1", "node-2")


def main(arguments: Sequence[str]) -> int:
    asked = parsed(arguments)
    work: Path = asked.work
    signal.signal(signal.SIGTERM, ended)
    archives = images(work, asked.image)
    control, *nodes = machines = [Machine(name, work) for name in ("control", *NODES)]
    cluster = Kubernetes(work, asked.binaries, archives, control, nodes)
    services = Services(cluster)
    try:
        began_s = time.monotonic()
        for machine in machines:
            machine.boot()
        joined(machines)
        cluster.start_control()
        for name in NODES:
            cluster.start_node(name)
        services.start()
        ready = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'
        wait(
            "both nodes",
            lambda: cluster.kubectl("get", "nodes", "-o", f"jsonpath={ready}").split() == ["True"] * 2,
        )
        version = cluster.get("nodes")["items"][0]["status"]["nodeInfo"]["kubeletVersion"]
        print(f"Kubernetes {version}, two nodes: {time.monotonic() - began_s:.0f} s", flush=True)
        parts = [*FACTS]
        if asked.helm:
            parts.append(("by Helm", charts.FACTS))
        if asked.istiod:
            parts.append(("under an istiod", istiod.FACTS))
        left_out = [] if asked.istiod else ["the agent under an istiod: none is named (--istiod PATH)"]
        failed = told(Stage(cluster, services, istiod=asked.istiod), parts, left_out)
        if asked.keep:
            entered = f"nsenter -t {control.pid} -m -n -- kubectl --kubeconfig={cluster.kubeconfig}"
            print(f"kept until Ctrl-C: {entered} get pods -A", flush=True)
            signal.pause()
        return failed
    except KeyboardInterrupt:
        return 1
    finally:
        with ExitStack() as ending:  # each of them, whatever becomes of the others
            ending.callback(print, "removed", flush=True)
            for machine in machines:
                ending.callback(machine.remove)
            ending.callback(logs, machines)
            ending.callback(services.stop)


def ended(*_: object) -> None:
    # Once: a second one must not break off the clearing away.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster-test")
    for name in ("work", "binaries", "image"):
        parser.add_argument(name, type=Path)
    for name in ("--keep", "--helm"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--istiod", type=Path)
    return parser.parse_args(arguments)


def told(stage: Stage, parts: Sequence[tuple[str, tuple[Fact, ...]]], left_out: Sequence[str]) -> int:
    """Each fact on a line; 1 where one does not hold."""
    failed = []
    for title, facts in parts:
        print(title, flush=True)
        for fact in facts:
            try:
                said = fact(stage)
            except Exception as error:
                failed.append(fact.__name__)
                print(
                    f"  NO   {fact.__name__.replace('_', ' ')}: {type(error).__name__}: {error}", flush=True
                )
            else:
                print(f"  ok   {said}", flush=True)
    for line in left_out:
        print(f"  --   not checked: {line}")
    print(
        f"{len(failed)} facts do not hold: {', '.join(failed)}" if failed else "every fact holds", flush=True
    )
    return bool(failed)


def logs(machines: list[Machine]) -> None:
    """What machines and pods said, kept where somebody wants it."""
    target = os.environ.get("ZTUN_CLUSTER_LOGS")
    if not target:
        return
    for machine in machines:
        shutil.copytree(machine.logs, Path(target) / machine.name, dirs_exist_ok=True)
        pods = Path(f"/proc/{machine.pid}/root/var/log/pods")
        if machine.pid and pods.is_dir():
            with suppress(shutil.Error):  # of pods that end just then
                shutil.copytree(pods, Path(target) / machine.name / "pods", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
