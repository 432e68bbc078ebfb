"""`scripts/bench neighbours`: a pod that floods with SYNs while connects are honest, and connections of its neighbours.

The pod sends SYNs by hand, 20,000 a second from ever other ports: to a port that is open, to one that is closed, and to
an address that never answers. Each of them asks for what a held SYN costs most of: a dial, a reset, a place. Neighbours
open connections all the while, out of another pod of that node and into one; none of them may fail. Needs root.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.accounting import cpu_s
from tests.bench.conclusion import conclude
from tests.bench.crowd import p99_us
from tests.bench.rounds import BenchError
from tests.support.labmesh import PORT, World, running
from tests.support.syns import SynGun

RATE_PER_S, LENGTH_S, ROUNDS = 20_000, 4.0, 3
SETTLE_S = 0.5
GAP_S = 0.002
PATIENCE_S = 5.0
AT_ONCE = 4
"""Connections that each neighbour makes at a time."""
FLOODER = "spare-a"
NEIGHBOURS = (("client-a", "server-b"), ("client-a", "server-a"), ("client-b", "server-a"))
"""Who connects to whom: out of the flooder's node, inside of it, and into it."""
CLOSED_PORT = PORT + 1
SILENT = "192.0.2.1"
"""No network has it (RFC 5737), and nothing of the lab answers for it."""
KINDS = ("open", "closed", "silent")


@dataclass(frozen=True, slots=True)
class Phase:
    """`cpu_s`: of the workers of the flooder's node, for each second. Microseconds until the first byte came."""

    opened: int
    failed: int
    p50_us: float
    p99_us: float
    worst_us: float
    cpu_s: float
    syns_per_s: float = 0.0
    counted: dict[str, int] | None = None
    """What became of the SYNs, by the exits of the program that saw them."""


Pairs = list[tuple[Phase, Phase]]
Said = "multiprocessing.SimpleQueue[tuple[list[int], int]]"


def flood(
    world: World, kind: str, rate_per_s: int, length_s: float, said: multiprocessing.SimpleQueue[int]
) -> None:
    host = SILENT if kind == "silent" else world.address("server-b")
    port = CLOSED_PORT if kind == "closed" else PORT
    with SynGun(world.pod(FLOODER)) as gun:
        said.put(gun.flood(world.address(FLOODER), host, port, rate_per_s, length_s, ahead=8192))


def connects(world: World, client: str, server: str, length_s: float, said: Said) -> None:
    """One connection after another: each says something and is answered."""
    times, failed, address = [], 0, world.address(server)
    end_s = time.monotonic() + length_s
    while time.monotonic() < end_s:
        began_ns = time.perf_counter_ns()
        try:
            with world.dial(client, address, PORT, PATIENCE_S) as sock:
                sock.sendall(b"x\n")
                if sock.recv(1):
                    times.append(time.perf_counter_ns() - began_ns)
                else:
                    failed += 1
        except OSError:
            failed += 1
        time.sleep(GAP_S)
    said.put((times, failed))


def measure(world: World, kind: str, length_s: float, rate_per_s: int) -> Phase:
    """With a flood of that rate, or with none. Raises BenchError."""
    context = multiprocessing.get_context("fork")
    sent: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    said: Said = context.SimpleQueue()
    flooding = None
    if rate_per_s:
        arguments = (world, kind, rate_per_s, length_s + 2 * SETTLE_S, sent)
        flooding = context.Process(target=flood, args=arguments, daemon=True)
        flooding.start()
        time.sleep(SETTLE_S)
    before, workers = world.counters("node-a"), world.workers("node-a").values()
    used_s, began_s = cpu_s(workers), time.monotonic()
    clients = [
        context.Process(target=connects, args=(world, *pair, length_s, said), daemon=True)
        for pair in NEIGHBOURS
        for _ in range(AT_ONCE)
    ]
    for each in clients:
        each.start()
    found = [said.get() for _ in clients]
    for each in clients:
        each.join()
    used_s, took_s, after = cpu_s(workers) - used_s, time.monotonic() - began_s, world.counters("node-a")
    count = 0
    if flooding is not None:
        flooding.join()
        if flooding.exitcode:
            raise BenchError("the flood did not come")
        count = sent.get()
    times = sorted(each for opened, _ in found for each in opened)
    return Phase(
        len(times),
        sum(failed for _, failed in found),
        statistics.median(times) / 1000 if times else float("nan"),
        p99_us(times),
        times[-1] / 1000 if times else float("nan"),
        used_s / took_s,
        count / (length_s + 2 * SETTLE_S),
        {
            f"{program}/{exit}": number - before.get((program, exit), 0)
            for (program, exit), number in after.items()
            if "SYN" in exit and number > before.get((program, exit), 0)
        },
    )


def misses(found: dict[str, Pairs]) -> list[str]:
    lines = []
    for kind, pairs in found.items():
        failed = sum(loud.failed for _, loud in pairs)
        opened = sum(loud.opened for _, loud in pairs)
        if failed or not opened:
            lines.append(
                f"{kind}: {failed} of {failed + opened} connections of neighbours failed, target none"
            )
    return lines


def table(found: dict[str, Pairs]) -> str:
    """Quiet and loud, medians of the rounds; of failures the sum, and of the slowest the slowest."""
    lines = [
        f"{'flood to':<10}{'SYN/s':>8}{'opened':>18}{'failed':>8}{'p50 ms':>16}{'p99 ms':>16}{'worst ms':>16}"
        f"{'CPU s/s':>14}"
    ]
    for kind, pairs in found.items():

        def both(of: Callable[[Phase], float], digits: int, pairs: Pairs = pairs) -> str:
            return " -> ".join(
                f"{statistics.median(map(of, side)):.{digits}f}" for side in zip(*pairs, strict=True)
            )

        failed = sum(loud.failed for _, loud in pairs)
        worst = max(loud.worst_us for _, loud in pairs) / 1000
        lines.append(
            f"{kind:<10}{statistics.median(loud.syns_per_s for _, loud in pairs):>8.0f}"
            f"{both(lambda phase: phase.opened, 0):>18}{failed:>8}{both(lambda phase: phase.p50_us / 1000, 1):>16}"
            f"{both(lambda phase: phase.p99_us / 1000, 1):>16}{worst:>16.0f}{both(lambda phase: phase.cpu_s, 2):>14}"
        )
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench neighbours", description="a pod that floods, its SYNs held, and its neighbours"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--rate", type=int, default=RATE_PER_S, metavar="N", help=f"default {RATE_PER_S}")
    parser.add_argument("--length", type=float, default=LENGTH_S, metavar="S", help=f"default {LENGTH_S:g}")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of each agent; default 2")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, help="of what is flooded; default all, may be repeated"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a connection of a neighbour fails")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    options = parser.parse_args(argv)
    if min(options.rounds, options.rate, options.workers) < 1 or options.length <= 0:
        parser.error("--rounds, --rate, --workers and --length: more than nothing")
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    flags = {"workers": str(options.workers), "honest-connect": "all"}
    kinds = options.kind or KINDS
    found: dict[str, Pairs] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as directory, running("n", Path(directory), flags=flags) as world:
        world.mesh.enroll(world.pod(FLOODER))
        world.mesh.wait_announced(world.pod(FLOODER))
        for number in range(options.rounds):
            for kind in kinds:
                quiet = measure(world, kind, options.length, 0)
                loud = measure(world, kind, options.length, options.rate)
                found[kind].append((quiet, loud))
                tell(f"round {number + 1}, {kind}: {json.dumps([asdict(quiet), asdict(loud)])}")
    figures = {kind: [[asdict(each) for each in pair] for pair in pairs] for kind, pairs in found.items()}
    head = f"{options.rounds} rounds of {options.length:g} s, {options.rate} SYN/s wanted; without the flood -> with it"
    return conclude(f"{head}\n\n{table(found)}", figures, misses(found), load, options, tell)
