"""`scripts/bench denied`: what a flood of SYNs that policy denies costs a worker, and others at the same pod.

SYNs of a pod, 50,000 a second, reach the other node's pod, where a policy denies its address. They are made by the
kernel's own hand (`SynHose`), since a pod that sends so many has a core to itself; `--by-hand` has it send them all the
same. Meanwhile another client, which is allowed, opens plaintext connections to that pod one after another. In each
round a quiet time and one with the flood, for agents that leave the answer to programs of the kernel (`--prefilter on`)
and to workers (`off`); the flood runs on a core that the measured agent is not on. Needs root.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from pyroute2 import IPRoute

from agent.lab.agents import LabMesh
from redirect.netns import entered
from tests.bench.accounting import cpu_s, pin
from tests.bench.conclusion import conclude
from tests.bench.crowd import p99_us
from tests.bench.rounds import BenchError
from tests.support.labmesh import PORT, World, policy_manifest, running
from tests.support.labtraffic import until
from tests.support.syns import SynGun, SynHose

RATE_PER_S, LENGTH_S, ROUNDS = 50_000, 4.0, 5
CPU_AT_MOST, P99_AT_MOST = 1.1, 1.2
SETTLE_S = 0.5
GAP_S = 0.002
MODES = ("off", "on")


@dataclass(frozen=True, slots=True)
class Phase:
    """`cpu_s`: of the node's agent with its worker, for each second; `syns_per_s`: what came of the flood's rate."""

    cpu_s: float
    p50_us: float
    p99_us: float
    failed: int
    opened: int
    syns_per_s: float = 0.0
    us_per_syn: float = 0.0
    """CPU time of whoever sends them, with all that becomes of them in the kernel meanwhile."""
    answered_share: float = 0.0


Pairs = list[tuple[Phase, Phase]]


Said = SimpleQueue[tuple[int, float]]


def flood(world: World, rate_per_s: int, length_s: float, said: Said, cpu: int, is_by_hand: bool) -> None:
    os.sched_setaffinity(0, {cpu})
    source, destination = world.address("outsider-b"), world.address("server-a")
    if is_by_hand:
        with SynGun(world.pod("outsider-b"), hop_mac=hop_mac(world, "outsider-b")) as gun:
            began_s = time.process_time()
            sent = gun.flood(source, destination, PORT, rate_per_s, length_s, ahead=8192)
    else:
        with SynHose(world.node("node-a"), source, destination, PORT) as hose:
            began_s = time.process_time()
            sent = hose.flood(rate_per_s, length_s)
    said.put((sent, time.process_time() - began_s))


def hop_mac(world: World, pod: str) -> bytes:
    """Where a pod that has sent something hands its packets to."""
    with entered(world.pod(pod).netns), IPRoute() as ip:
        rows = [dict(row["attrs"]) for row in ip.get_neighbours(family=socket.AF_INET)]
    return next(bytes.fromhex(row["NDA_LLADDR"].replace(":", "")) for row in rows if "NDA_LLADDR" in row)


def opened(world: World, length_s: float) -> tuple[list[int], int]:
    """Nanoseconds of each connection that asked and was answered, and how many were not."""
    address, times, failed = (world.address("server-a"), PORT), [], 0
    end_s = time.monotonic() + length_s
    while time.monotonic() < end_s:
        began_ns = time.perf_counter_ns()
        try:
            with world.dial("outsider-a", *address) as sock:
                sock.sendall(b"x\n")
                sock.recv(1)
            times.append(time.perf_counter_ns() - began_ns)
        except OSError:
            failed += 1
        time.sleep(GAP_S)
    return times, failed


def measure(
    world: World, agent: list[int], length_s: float, rate_per_s: int, cpu: int, is_by_hand: bool = False
) -> Phase:
    """With a flood of that rate, or with none."""
    said: Said = multiprocessing.SimpleQueue()
    process = None
    if rate_per_s:
        arguments = (world, rate_per_s, length_s + SETTLE_S, said, cpu, is_by_hand)
        process = multiprocessing.get_context("fork").Process(target=flood, args=arguments, daemon=True)
        process.start()
        time.sleep(SETTLE_S)
    denied, before_s, began_s = answered(world), cpu_s(agent), time.monotonic()
    times, failed = opened(world, length_s)
    took_s = time.monotonic() - began_s
    used_s, denied = cpu_s(agent) - before_s, answered(world) - denied
    sent, flood_s = 0, 0.0
    if process is not None:
        process.join()
        if process.exitcode:
            raise BenchError("the flood did not come")
        sent, flood_s = said.get()
    rate = sent / (length_s + SETTLE_S)
    share = denied / took_s / rate if rate else 0.0
    p50_us = statistics.median(times) / 1000 if times else float("nan")
    each_us = flood_s / sent * 1e6 if sent else 0.0
    return Phase(used_s / took_s, p50_us, p99_us(times), failed, len(times), rate, each_us, share)


def answered(world: World) -> int:
    return world.counters("node-a").get(("to_pod", "DENIED"), 0)


def rounds(
    world: World, options: argparse.Namespace, tell: Callable[[str], None]
) -> dict[str, list[tuple[Phase, Phase]]]:
    """Quiet and loud, by mode."""
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, Pairs] = {mode: [] for mode in MODES}
    for number in range(options.rounds):
        for mode in MODES:
            world.kill_control("node-a")
            LabMesh(world.lab, {"workers": "1", "prefilter": mode}).start_agent(world.node("node-a"))
            world.mesh.wait_ready("node-a")
            until(
                lambda: not world.is_served("outsider-b", world.address("server-a")), "the policy is in force"
            )
            if mode == "on":
                until(lambda: world.status("node-a")["prefilter"]["addresses"], "programs have it")
            agent = [world.process("agent-node-a").pid, *world.workers("node-a").values()]
            if not options.no_pin:
                pin(agent, cores[0])
            quiet = measure(world, agent, options.length, 0, cores[-1])
            loud = measure(world, agent, options.length, options.rate, cores[-1], options.by_hand)
            found[mode].append((quiet, loud))
            tell(f"round {number + 1}, prefilter {mode}: {json.dumps([asdict(quiet), asdict(loud)])}")
    return found


def ratios(pairs: Pairs) -> dict[str, float]:
    """Medians over the rounds of what the flood changes."""

    def median(of: Callable[[Phase, Phase], float]) -> float:
        return statistics.median(of(quiet, loud) for quiet, loud in pairs)

    return {
        "cpu": median(lambda quiet, loud: loud.cpu_s / max(quiet.cpu_s, 0.001)),
        "p50": median(lambda quiet, loud: loud.p50_us / quiet.p50_us),
        "p99": median(lambda quiet, loud: loud.p99_us / quiet.p99_us),
        "failed": float(sum(loud.failed for _, loud in pairs)),
        "syns_per_s": median(lambda _, loud: loud.syns_per_s),
        "us_per_syn": median(lambda _, loud: loud.us_per_syn),
        "answered_share": median(lambda _, loud: loud.answered_share),
    }


def misses(of: dict[str, float]) -> list[str]:
    found = []
    if of["cpu"] > CPU_AT_MOST:
        found.append(f"CPU of the agent is {of['cpu']:.2f} of its quiet one, target {CPU_AT_MOST}")
    if of["p99"] > P99_AT_MOST:
        found.append(f"p99 of allowed connections is {of['p99']:.2f} of its quiet one, target {P99_AT_MOST}")
    if of["failed"]:
        found.append(f"{of['failed']:.0f} allowed connections failed, target none")
    return found


def table(by_mode: dict[str, dict[str, float]]) -> str:
    lines = [
        f"{'prefilter':<11}{'SYN/s':>8}{'us each':>9}{'answered':>10}{'CPU x':>8}{'p50 x':>8}{'p99 x':>8}{'failed':>8}"
    ]
    for mode, of in by_mode.items():
        lines.append(
            f"{mode:<11}{of['syns_per_s']:>8.0f}{of['us_per_syn']:>9.1f}{of['answered_share']:>10.0%}{of['cpu']:>8.2f}{of['p50']:>8.2f}"
            f"{of['p99']:>8.2f}{of['failed']:>8.0f}"
        )
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench denied", description="what a flood that policy denies costs a worker and others"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--rate", type=int, default=RATE_PER_S, metavar="N", help=f"default {RATE_PER_S}")
    parser.add_argument("--length", type=float, default=LENGTH_S, metavar="S", help=f"default {LENGTH_S:g}")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    parser.add_argument("--by-hand", action="store_true", help="the pod sends the flood")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place the processes")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.rate < 1 or options.length <= 0:
        parser.error("--rounds, --rate and --length: more than nothing")
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as directory,
        running("f", Path(directory), flags={"workers": "1"}) as world,
    ):
        source = f'[{{from: [{{source: {{ipBlocks: ["{world.address("outsider-b")}"]}}}}]}}]'
        with world.manifest("denied", policy_manifest("denied", source, action="DENY")):
            found = rounds(world, options, tell)
    by_mode = {mode: ratios(pairs) for mode, pairs in found.items()}
    figures = {
        "ratios": by_mode,
        "rounds": {
            mode: [[asdict(each) for each in pair] for pair in pairs] for mode, pairs in found.items()
        },
    }
    head = f"{options.rounds} rounds of {options.length:g} s, {options.rate} SYN/s wanted; with the flood over without"
    return conclude(f"{head}\n\n{table(by_mode)}", figures, misses(by_mode["on"]), load, options, tell)
