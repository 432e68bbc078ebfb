"""`scripts/bench cni`: what ztun-cni adds to the making of a pod, on a node that fills with pods.

Two chains of real plugins, one with ztun-cni behind bridge and portmap, one without, are run in turns on one node with
a control plane and an agent; what differs between the two of a pair is ztun's. Pods with ztun stay, the others go
again. Every second pod has a service account of its own, so that its certificate is fetched meanwhile. Needs root and
Debian's containernetworking-plugins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.conclusion import conclude
from tests.support import kube_node
from tests.support.kube_node import KubeNode

PODS = 200
P50_LIMIT_MS = 60.0
GROWTH_LIMIT = 1.5
"""The last fifth of the pods over the first: medians of what each took more than its pair."""
CONFLIST: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One pod with ztun and one without, made one after the other; milliseconds of their ADD."""

    with_ms: float
    without_ms: float
    is_new_identity: bool

    @property
    def extra_ms(self) -> float:
        return self.with_ms - self.without_ms


@dataclass(frozen=True, slots=True)
class Result:
    """`growth`: what the last fifth of the pods took more than its pairs, over what the first did."""

    pods: int
    with_p50_ms: float
    with_p99_ms: float
    without_p50_ms: float
    without_p99_ms: float
    extra_p50_ms: float
    extra_p99_ms: float
    extra_p50_known_ms: float
    extra_p50_new_ms: float
    growth: float
    control_cpu_ms: float


def summed(pairs: Sequence[Pair], control_cpu_ms: float) -> Result:
    """At least ten pairs."""
    fifth = len(pairs) // 5
    extra = [pair.extra_ms for pair in pairs]
    first, last = statistics.median(extra[:fifth]), statistics.median(extra[-fifth:])
    return Result(
        len(pairs),
        *(each for part in ("with_ms", "without_ms") for each in _p50_p99([getattr(p, part) for p in pairs])),
        *_p50_p99(extra),
        statistics.median(pair.extra_ms for pair in pairs if not pair.is_new_identity),
        statistics.median(pair.extra_ms for pair in pairs if pair.is_new_identity),
        last / first,
        control_cpu_ms,
    )


def _p50_p99(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def misses(result: Result) -> list[str]:
    """A line for each target that is not met."""
    lines = []
    if result.extra_p50_ms > P50_LIMIT_MS:
        lines.append(
            f"ADD takes {result.extra_p50_ms:.0f} ms more with ztun-cni (p50), target at most {P50_LIMIT_MS:g}"
        )
    if result.growth > GROWTH_LIMIT:
        lines.append(
            f"what it takes more grows to {result.growth:.2f} times with {result.pods} pods, target at most "
            f"{GROWTH_LIMIT:g}"
        )
    return lines


class Runtime:
    """Runs chains inside the node, as a container runtime there would."""

    def __init__(self, node: KubeNode) -> None:
        command = (
            "env",
            f"--chdir={kube_node.ROOT}",
            sys.executable,
            "-m",
            "tests.support.cni_chain",
        )
        self._process = subprocess.Popen(
            node.machine.inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, command: str, container: str, conflist: Any, **more: Any) -> dict[str, Any]:
        """`took_s` and `result`. The pod is called like the container, unless told. Raises RuntimeError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"command": command, "container": container, "pod": container, "conflist": conflist} | more
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"{command} of {request['pod']}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def filling(node: KubeNode) -> Iterator[Callable[[int], Pair]]:
    """Each call makes one more pod in the mesh, and one beside it."""
    chained = json.loads(node.inside("/etc/cni/net.d/10-pods.conflist").read_text())
    assert chained["plugins"][-1]["type"] == "ztun-cni", chained
    runtime = Runtime(node)

    def without(number: int) -> float:
        name, pod = f"bare{number}", {"namespace": "elsewhere", "uid": "u"}
        made = runtime.call("ADD", name, CONFLIST, **pod)
        runtime.call("DEL", name, CONFLIST, **pod, previous=made["result"])
        return float(made["took_s"]) * 1000

    def with_ztun(number: int, is_new: bool) -> float:
        name = f"pod{number}"
        uid = node.announce(name, account=f"account{number}" if is_new else "shared")
        made = runtime.call("ADD", name, chained, namespace="demo", uid=uid)
        node.has_started(name, made["result"]["ips"][0]["address"].partition("/")[0])
        node.until(lambda: node.says(name) == "enabled", f"{name} is served")
        return float(made["took_s"]) * 1000

    def pair(number: int) -> Pair:
        is_new = number % 2 == 1
        if number % 4 < 2:
            took_ms = with_ztun(number, is_new)
            return Pair(took_ms, without(number), is_new)
        took_ms = without(number)
        return Pair(with_ztun(number, is_new), took_ms, is_new)

    try:
        yield pair
    finally:
        runtime.close()


def measure(pods: int, tell: Callable[[str], None]) -> Result:
    with (
        tempfile.TemporaryDirectory() as directory,
        kube_node.running(Path(directory), json.dumps(CONFLIST)) as node,
        filling(node) as pair,
    ):
        pair(0)  # the bridge, the first certificate, everything that is made once
        before_ms = node.agent_cpu_ms()
        pairs = []
        for number in range(1, pods + 1):
            pairs.append(pair(number))
            if number % 50 == 0:
                extra_ms = statistics.median(each.extra_ms for each in pairs[-50:])
                tell(f"{number} pods: ADD takes {extra_ms:.0f} ms more, median of the last 50")
        return summed(pairs, (node.agent_cpu_ms() - before_ms) / pods)


def table(result: Result) -> str:
    rows = [
        ("", "p50", "p99"),
        ("ADD with ztun-cni", f"{result.with_p50_ms:.0f} ms", f"{result.with_p99_ms:.0f} ms"),
        ("ADD without", f"{result.without_p50_ms:.0f} ms", f"{result.without_p99_ms:.0f} ms"),
        ("of a pair, more", f"{result.extra_p50_ms:.0f} ms", f"{result.extra_p99_ms:.0f} ms"),
        ("  a known identity", f"{result.extra_p50_known_ms:.0f} ms", ""),
        ("  a new one", f"{result.extra_p50_new_ms:.0f} ms", ""),
    ]
    lines = [f"| {name:<20} | {p50:>8} | {p99:>8} |" for name, p50, p99 in rows]
    lines.insert(1, f"|{'-' * 22}|{'-' * 9}:|{'-' * 9}:|")
    lines.append(
        f"{result.pods} pods; the last fifth took {result.growth:.2f} times what the first took more; the agent's "
        f"control process used {result.control_cpu_ms:.0f} ms of CPU for each pair, from its ADD until it was served"
    )
    return "\n".join(lines)


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench cni", description="what ztun-cni adds to the making of a pod"
    )
    parser.add_argument("--pods", type=int, default=PODS, metavar="N", help=f"default {PODS}")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures")
    options = parser.parse_args(argv)
    if not 10 <= options.pods <= 1000:
        parser.error("--pods: 10 to 1000, as many as a bridge has ports")
    load = os.getloadavg()[0]
    result = measure(options.pods, tell)
    return conclude(table(result), asdict(result), misses(result), load, options, tell)
