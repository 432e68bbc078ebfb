"""`scripts/bench dns`: queries of a captured pod at a fixed rate, against those of a pod that is not captured.

One worker, on one core; who asks and who answers are elsewhere. Names of the mesh that were asked for before and that
were not, names that are forwarded, and those that were answered before. The name server is a loop that answers whatever
is asked, so `direct` is the network and two wake-ups. `--against REV` has another commit asked in turn. Needs root.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import select
import signal
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import dns.message

from agent import FORM
from agent.lab.agents import LabMesh
from agent.lab.topology import Topology
from agent.net.sockets import SO_RCVBUFFORCE
from redirect.netns import entered
from tests.bench import earlier
from tests.bench.accounting import cpu_s, pin
from tests.bench.conclusion import conclude
from tests.support.labmesh import World, running
from tests.support.labtraffic import until
from tests.support.pod_dns import asked_of, texts

ROOT = Path(__file__).parents[2]
RATE_PER_S, LENGTH_S, LATE_S = 5000, 5.0, 1.0
CPU_AT_MOST_US = 100
"""Of a query that is forwarded."""
BEFORE = "before: "
"""Stands before the names of what another commit has answered."""
VIP = "10.96.77.50"
WILD = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: wild, namespace: demo}}
spec:
  hosts: ["*.wild.test"]
  addresses: ["{VIP}"]
  ports: [{{number: 80, name: http, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: 10.77.1.12}}]
"""
ANSWER = struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes((192, 0, 2, 1)))


@dataclass(frozen=True, slots=True)
class Phase:
    """`names` in what is asked: `{}` is the number of the query."""

    name: str
    pod: str
    names: str


PHASES = (
    Phase("direct", "spare-a", "n{}.far.test."),
    Phase("mesh, again", "client-a", "server.demo.svc.cluster.local."),
    Phase("mesh, new", "client-a", "n{}.wild.test."),
    Phase("forwarded", "client-a", "n{}.far.test."),
    Phase("forwarded, again", "client-a", "same.far.test."),
)


@dataclass(frozen=True, slots=True)
class Result:
    """`cpu_us` of the worker for one query."""

    asked: int
    lost: int
    rate_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float


def answer_all(sock: socket.socket) -> None:
    """A name server that knows every name."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        query, ancillary, _, peer = sock.recvmsg(4096, 128)
        header = query[:2] + b"\x81\x80" + query[4:6] + b"\0\1" + bytes(4)
        end = query.index(b"\0", 12) + 5
        sock.sendmsg([header + query[12:end] + ANSWER], ancillary, 0, peer)


@contextmanager
def name_server(world: World, pod: str) -> Iterator[int]:
    """In a pod, in a process of its own; its number."""
    with entered(world.pod(pod).netns):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        sock.bind(("::", 53))
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        process = multiprocessing.get_context("fork").Process(target=answer_all, args=(sock,), daemon=True)
        process.start()
        assert process.pid is not None
        try:
            yield process.pid
        finally:
            process.terminate()
            process.join()


def ask(netns: Path, server: str, queries: list[bytes], rate_per_s: float) -> tuple[list[float], float]:
    """The seconds that each answer took, and how long asking took: at that rate, whoever is late."""
    with entered(netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sent_s: list[float] = []
    took_s: list[float] = []
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        sock.connect((server, 53))
        began_s = time.perf_counter()
        end_s = began_s + len(queries) / rate_per_s + LATE_S
        asked_in_s = 0.0
        while len(took_s) < len(queries) and (now_s := time.perf_counter()) < end_s:
            while len(sent_s) < min(len(queries), int((now_s - began_s) * rate_per_s) + 1):
                query = queries[len(sent_s)]
                sent_s.append(time.perf_counter())
                sock.send(query)
                asked_in_s = sent_s[-1] - began_s
            try:
                while True:
                    answer = sock.recv(4096)
                    if answer[3] & 0xF:  # SERVFAIL is none
                        continue
                    at = int.from_bytes(answer[:2], "big")
                    took_s.append(time.perf_counter() - sent_s[at])
            except BlockingIOError:
                pass
            select.select([sock], [], [], 1 / rate_per_s)
    return took_s, asked_in_s


def measure(world: World, phase: Phase, worker: int, rate_per_s: float, count: int, turn: int) -> Result:
    """`turn`: names that are new are other ones in each."""
    names = phase.names.replace("{}", f"{{}}r{turn}")
    queries = [
        dns.message.make_query(names.format(number), "A", use_edns=False, id=number).to_wire()
        for number in range(count)
    ]
    before_s = cpu_s([worker])
    took_s, length_s = ask(world.pod(phase.pod).netns, world.address("outsider-b"), queries, rate_per_s)
    used_s = cpu_s([worker]) - before_s
    took_s.sort()
    found = took_s or [float("nan")]
    return Result(
        count,
        count - len(took_s),
        count / length_s,
        1e6 * statistics.median(found),
        1e6 * found[int(0.99 * (len(found) - 1))],
        1e6 * used_s / count,
    )


def of_turns(turns: list[Result]) -> Result:
    """The medians; what was asked and lost added up."""
    found = {}
    for field in fields(Result):
        of = sum if field.name in ("asked", "lost") else statistics.median
        found[field.name] = of([getattr(each, field.name) for each in turns])
    return Result(**found)


def misses(results: dict[str, Result]) -> list[str]:
    """A line for each target that is not met."""
    found = [
        f"{name}: {result.lost} of {result.asked} queries had no answer, target none"
        for name, result in results.items()
        if result.lost and name.startswith(("mesh", "forwarded"))
    ]
    used_us = results["forwarded"].cpu_us
    if used_us > CPU_AT_MOST_US:
        found.append(f"forwarded: {used_us:.0f} us of CPU for a query, target {CPU_AT_MOST_US} at most")
    return found


def table(results: dict[str, Result]) -> str:
    lines = [
        f"{'queries':<26}{'asked/s':>9}{'lost':>7}{'p50 us':>9}{'p99 us':>9}{'p99 / direct':>14}{'CPU us':>9}"
    ]
    direct = results["direct"].p99_us
    for name, result in results.items():
        cpu = "-" if name.endswith("direct") else f"{result.cpu_us:.0f}"
        lines.append(
            f"{name:<26}{result.rate_per_s:>9.0f}{result.lost:>7}{result.p50_us:>9.0f}{result.p99_us:>9.0f}"
            f"{result.p99_us / direct:>14.2f}{cpu:>9}"
        )
    return "\n".join(lines)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench dns", description="DNS of a captured pod")
    parser.add_argument("--count", type=int, metavar="N", help="queries of each kind; default 5 s of them")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--against", metavar="REV", help="another commit of ztun in the same rounds too")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    options = parser.parse_args(argv)
    options.count = options.count or int(RATE_PER_S * LENGTH_S)
    if not 100 <= options.count <= 65536:
        parser.error("--count: from 100 to 65536, as many as have a number of their own")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


@contextmanager
def captured(letter: str, before: tuple[str, ...] | None = None) -> Iterator[World]:
    """A lab whose pods have their DNS captured, by this tree or by the command of another, and a name server."""

    def make(lab: Topology, flags: dict[str, str]) -> LabMesh:
        return LabMesh(lab, flags, before) if before else LabMesh(lab, flags)

    flags = {"dns-capture": "true", "workers": "1"}
    with (
        tempfile.TemporaryDirectory() as directory,
        running(letter, Path(directory), flags=flags, make=make) as world,
        name_server(world, "outsider-b") as answering,
        world.manifest("wild", WILD),
    ):
        pod, server = world.pod("client-a").netns, world.address("outsider-b")
        until(lambda: texts(asked_of(pod, server, "a.wild.test.")) == [VIP], "the mesh knows the names")
        pin([answering], max(os.sched_getaffinity(0)))
        yield world


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    before = earlier.install(options.against, ROOT, tell, like=FORM) if options.against else None
    cores = sorted(os.sched_getaffinity(0))
    turns: dict[str, list[Result]] = {}
    with ExitStack() as stack:
        worlds = {"": stack.enter_context(captured("q"))}
        if before:
            worlds[BEFORE] = stack.enter_context(captured("p", before))
        tell("the mesh is there")
        pin([os.getpid()], cores[-1])
        for turn in range(options.rounds):
            for phase in PHASES:
                for which, world in worlds.items():
                    tell(f"round {turn + 1}, {which}{phase.name}")
                    (worker,) = world.workers("node-a").values()
                    pin([worker], cores[0])
                    result = measure(world, phase, worker, RATE_PER_S, options.count, turn)
                    turns.setdefault(which + phase.name, []).append(result)
    results = {name: of_turns(found) for name, found in turns.items()}
    head = f"{options.count} queries of each kind at {RATE_PER_S}/s, one worker, {options.rounds} rounds"
    figures = {
        "count": options.count,
        "results": {name: asdict(result) for name, result in results.items()},
        "rounds": {name: [asdict(each) for each in found] for name, found in turns.items()},
    }
    return conclude(f"{head}\n\n{table(results)}", figures, misses(results), load, options, tell)
