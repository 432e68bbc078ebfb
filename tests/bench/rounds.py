"""Runs the workloads against the systems in turn and collects one sample per metric, system and round.

A B C A B C: what drifts (clock speed, a neighbour) meets all systems alike. Each run starts its own client, throws
the warm-up away and reads the proxies' CPU time exactly at the two ends of the measured time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tests.bench import accounting, load
from tests.bench.systems import HERE, Stage, System

Client: TypeAlias = "subprocess.Popen[bytes]"
Samples = dict[str, dict[str, list[float]]]
"""system -> metric -> one value per round."""

IDLE_CONNECTIONS = 2000
UNREAD_CONNECTIONS = 1000
INTERACTIVE = 100
WARM_UP_CONNECTIONS = 64
SETTLE_S = 0.5


class BenchError(Exception):
    """A run failed; the text names the system and the workload."""


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    kind: str
    count: int = 1
    rate: float = 0.0
    """How often a second its clients ask, all together; 0: as often as they are answered."""
    share: float = 0.0
    """The same as a part of what Envoy, or where there is none ztun, had by `exchange_64` in this round."""

    @property
    def is_handshake(self) -> bool:
        return self.kind == "handshake"


WORKLOADS = (
    Workload("upload_1", "upload", 1),
    Workload("download_1", "download", 1),
    Workload("upload_8", "upload", 8),
    Workload("download_8", "download", 8),
    Workload("exchange_1", "exchange", 1),
    Workload("exchange_64", "exchange", 64),
    Workload("half", "paced", 64, share=0.5),
    Workload("connect", "connect", 32),
    Workload("refused", "refused"),
    Workload("handshake", "handshake"),
    # Last: what they leave to be taken down meets nobody else.
    Workload("stalled_12", "stalled", 12),
    Workload("stalled_40", "stalled", 40),
    Workload("stalled_200", "stalled", 200),
    Workload("beside_bulk", "interactive", INTERACTIVE),
)


# Once, after all rounds: most of its time is preparation.
MANY, QUICK_MANY = Workload("many_open", "many", 10_000), Workload("many_open", "many", 2_000)


class Rounds:
    """`warm_up_s` and `length_s` are those of every single run."""

    def __init__(self, stage: Stage, warm_up_s: float, length_s: float, tell: Callable[[str], None]) -> None:
        self._stage = stage
        self._warm_up_s = warm_up_s
        self._length_s = length_s
        self._tell = tell
        self.samples: Samples = {name: {} for name in stage.systems}
        self.negotiated: dict[str, str] = {}
        self.failed: dict[str, int] = {}

    def run(self, count: int, workloads: Iterable[Workload] = WORKLOADS) -> None:
        """Every workload on every system, `count` times."""
        chosen, began_s = tuple(workloads), time.monotonic()
        for number in range(count):
            for workload in map(self._at_rate, chosen):
                for system in self._stage.systems.values():
                    if system.takes(workload.kind):
                        self._note(system, self.measure(system, workload))
            self._tell(f"round {number + 1} of {count}, {time.monotonic() - began_s:.0f} s")

    def _at_rate(self, workload: Workload) -> Workload:
        if not workload.share:
            return workload
        of = self.samples.get("envoy") or self.samples["ztun"]
        if not of.get("exchange_64"):
            raise BenchError(f"{workload.name}: it takes a rate that no round before it has measured")
        return replace(workload, rate=workload.share * of["exchange_64"][-1], share=0.0)

    def _note(self, system: System, values: Mapping[str, float]) -> None:
        for metric, value in values.items():
            self.samples[system.name].setdefault(metric, []).append(value)

    def measure(self, system: System, workload: Workload) -> dict[str, float]:
        """One workload on one system, by metric. Raises BenchError."""
        watched = system.second if workload.is_handshake else system.proxies
        client = start(self._stage, system, workload, self._warm_up_s, self._length_s)
        try:
            expect_begin(self._stage, client, system, workload.name)
            before_s = accounting.cpu_s(watched)
            each_s = [[accounting.cpu_s((pid,)) for pid in pids] for pids in system.workers]
            result = json.loads(line(client) or "null")
            used_s = accounting.cpu_s(watched) - before_s
            shares = [busiest(pids, before) for pids, before in zip(system.workers, each_s, strict=True)]
        finally:
            end(client)
        if result is None:
            raise failure(self._stage, system, workload.name)
        if workload.is_handshake:
            self.negotiated[system.name] = result["negotiated"]
        if result.get("failed"):
            self.failed[system.name] = self.failed.get(system.name, 0) + result["failed"]
        values = metrics(workload, result, used_s if watched else None)
        if workload.name == "download_8" and shares:
            values[f"busiest_{len(system.workers[0])}"] = max(shares)
        return values


def busiest(pids: Sequence[int], before_s: Sequence[float]) -> float:
    """What the one that did most has done of all since; 1 over their number where nobody has done anything."""
    used_s = [accounting.cpu_s((pid,)) - before for pid, before in zip(pids, before_s, strict=True)]
    total_s = sum(used_s)
    return max(used_s) / total_s if total_s else 1 / len(used_s)


def metrics(workload: Workload, result: Mapping[str, Any], used_s: float | None) -> dict[str, float]:
    """A client's result as metrics; `used_s` is the CPU time of the proxies, None where there are none."""
    if "first_us" in result:
        return {workload.name: result["last_us"] / result["first_us"]}
    if "quiet_p99_us" in result:
        return {workload.name: result["p99_us"] / result["quiet_p99_us"]}
    seconds = result["seconds"]
    values: dict[str, float] = {}
    if "bytes" in result:
        values[workload.name] = result["bytes"] / seconds / 1e9
        if used_s is not None:
            values[f"cpu_{workload.name}"] = used_s / (result["bytes"] / 1e9)
        return values
    each_us = None if used_s is None else used_s / result["count"] * 1e6
    if workload.is_handshake:
        return {"cpu_handshake": each_us or 0.0, "handshakes": result["count"] / seconds}
    if workload.kind == "paced":
        return {f"{which}_{workload.name}": result[f"{which}_us"] for which in ("p50", "p99")}
    if workload.kind == "refused":
        return {"p50_refused": result["p50_us"], "p99_refused": result["p99_us"]}
    values[workload.name] = result["count"] / seconds
    if each_us is not None:
        values[f"cpu_{workload.name}"] = each_us
    for metric in ("p50_us", "p99_us"):
        if metric in result and workload.kind != "connect":
            values[f"{metric.removesuffix('_us')}_{workload.count}"] = result[metric]
    return values


class Idle:
    """Memory of proxies that have just started and carried nothing but a warm-up."""

    def __init__(self, stage: Stage, tell: Callable[[str], None]) -> None:
        self._stage = stage
        self._tell = tell

    def run(self) -> Samples:
        """At rest, per idle connection, per one that is not read, and what the last of many takes to be made."""
        samples: Samples = {name: {} for name in self._stage.systems}
        for system in self._stage.systems.values():
            if system.proxies and system.takes("hold"):
                self._tell(f"memory of {system.name} with {IDLE_CONNECTIONS} idle connections")
                samples[system.name] = self._measure(system)
        return samples

    def _measure(self, system: System) -> dict[str, list[float]]:
        at_rest = accounting.pss_bytes(everyone(system))
        control = accounting.pss_bytes(system.control)
        self._with_open(system, WARM_UP_CONNECTIONS)
        before = accounting.pss_bytes(everyone(system))
        during = self._with_open(system, IDLE_CONNECTIONS)
        unread = self._with_open(system, UNREAD_CONNECTIONS, "stall")
        return {
            "memory_unread": [(unread - before) / UNREAD_CONNECTIONS / 1e3],
            "memory_rest": [at_rest / 1e6],
            "memory_control": [control / 1e6],
            "memory_idle": [(during - before) / IDLE_CONNECTIONS / 1e3],
        }

    def growth(self, counts: Sequence[int]) -> dict[str, list[tuple[float, float]]]:
        """Of each system with proxies the bytes that they hold with so many idle connections."""
        found: dict[str, list[tuple[float, float]]] = {}
        for system in self._stage.systems.values():
            if system.proxies and system.takes("hold"):
                self._tell(f"memory of {system.name} with up to {max(counts)} idle connections")
                found[system.name] = [(count, float(self._with_open(system, count))) for count in counts]
        return found

    def _with_open(self, system: System, count: int, kind: str = "hold") -> int:
        """Memory while so many connections are open and silent, or nobody reads what they bring."""
        client = start(self._stage, system, Workload(kind, kind, count), 0, 0)
        try:
            expect_begin(self._stage, client, system, kind)
            time.sleep(SETTLE_S)
            return accounting.pss_bytes(everyone(system))
        finally:
            end(client)
            time.sleep(SETTLE_S)


def everyone(system: System) -> set[int]:
    """The processes of its proxies, with those that nobody names: the memory of all of them counts."""
    unnamed = (child for control in system.control for child in accounting.children(control))
    return {*system.proxies, *unnamed}


def start(stage: Stage, system: System, workload: Workload, warm_up_s: float, length_s: float) -> Client:
    """A client of the workload in the system's client pod."""
    (host, port), pod = system.target, system.client
    times = [str(warm_up_s), str(length_s), str(stage.core(system.client.node))]
    if workload.is_handshake:
        assert system.hbone is not None
        (host, port), pod = system.hbone.target, system.hbone.client
        command = ["-m", "tests.bench.handshakes", host, str(port), str(system.hbone.credentials)]
    else:
        # Without site-packages a client starts in a fraction of the time.
        which = [str(HERE / "load.py")] if workload.kind in load.CLIENTS else ["-m", "tests.bench.beside"]
        count = f"{workload.count}@{workload.rate}" if workload.rate else str(workload.count)
        command = ["-S", "-E", *which, workload.kind, host, str(port), count]
    name, netns = f"client-{system.name}", pod.netns
    return stage.topology.processes.start(
        name, netns, [sys.executable, *command, *times], stdout=subprocess.PIPE
    )


def line(client: Client) -> bytes:
    """The next line of output, empty at its end. Clients give up by themselves, so this does not block for ever."""
    assert client.stdout is not None
    return client.stdout.readline().strip()


def expect_begin(stage: Stage, client: Client, system: System, workload: str) -> None:
    if line(client) != b"begin":
        raise failure(stage, system, workload)


def end(client: Client) -> None:
    client.kill()
    client.wait()
    assert client.stdout is not None
    client.stdout.close()


def failure(stage: Stage, system: System, workload: str) -> BenchError:
    log = stage.mesh.log(f"client-{system.name}").read_text(errors="replace").splitlines()
    return BenchError(f"{system.name}, {workload}: {log[-1] if log else 'the client died'}")
