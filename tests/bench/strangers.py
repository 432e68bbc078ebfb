"""What a crowd of strangers at the second proxy costs others: new connections, those that live, and memory.

As `Strangers` the bench's part. As `python -m tests.bench.strangers crowd|newcomers …` its two processes: a crowd that
connects from many addresses to the tunnel port, says its word once and then nothing, comes again where it is sent away;
and newcomers, who open connections to the application one after another while some others stay open.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from pyroute2 import IPRoute

from agent.lab.wiring import UPLINK
from redirect.netns import entered
from tests.bench import accounting
from tests.bench.load import PATIENCE_S, connected, say
from tests.bench.rounds import BenchError, Samples, end, line
from tests.bench.systems import Stage, System
from tests.support.client_hello import hello

COUNT, QUICK_COUNT = 20_000, 4_000
PER_S = 2_000
"""How many come in a second; what makes them is on the core of the first proxy."""
ADDRESSES = 50
NETWORK = "172.31.250"
LIVE = 20
GAP_S = 0.005
QUIET_S, QUICK_QUIET_S = 4.0, 1.0
FORGET_S = 60.0
SPARE_BYTES = 2_000_000
"""Memory that comes and goes with anything."""
KINDS = {"half-open": "half", "garbage": "garbage"}
FILES_KEPT = 500


@dataclass(frozen=True, slots=True)
class Served:
    """What newcomers saw: microseconds of the slowest of a hundred, and what went wrong."""

    p99_us: float
    failed: int
    lost: int


class Strangers:
    """Run it last: it leaves a crowd's traces."""

    def __init__(self, stage: Stage, tell: Callable[[str], None], *, is_quick: bool) -> None:
        self._stage = stage
        self._tell = tell
        self._count = QUICK_COUNT if is_quick else COUNT
        self._quiet_s = QUICK_QUIET_S if is_quick else QUIET_S

    def run(self) -> Samples:
        """Every system behind a tunnel port."""
        samples: Samples = {name: {} for name in self._stage.systems}
        for place in (place for topology in self._stage.topologies for place in topology.nodes.values()):
            last = 1 if place.name == "node-b" else 100
            with entered(place.netns), IPRoute() as ip:
                (index,) = ip.link_lookup(ifname=UPLINK)
                for n in range(1 if last == 1 else ADDRESSES):
                    ip.addr("add", index=index, address=f"{NETWORK}.{last + n}", prefixlen=24)
        for system in self._stage.systems.values():
            if system.hbone is not None:
                samples[system.name] = self._measure(system)
        return samples

    def _measure(self, system: System) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {}
        lost, left = 0.0, 0.0
        for kind, key in KINDS.items():
            self._tell(f"{self._count} {kind} connections against {system.name}")
            before = accounting.pss_bytes(system.second)
            quiet = self._newcomers(system, self._quiet_s)
            crowd = self._start(system, "node-a", "crowd", kind, str(self._count))
            try:
                if line(crowd) != b"begin":
                    raise BenchError(f"{system.name}: the crowd did not come")
                served = self._newcomers(system, self._count / PER_S)
            finally:
                end(crowd)
            values[f"strangers_{key}"] = [served.p99_us / quiet.p99_us]
            lost += served.lost
            left = max(left, self._forgotten(system, before))
        return values | {"strangers_lost": [lost], "strangers_memory": [left / 1e6]}

    def _newcomers(self, system: System, seconds: float) -> Served:
        client = self._start(system, "", "newcomers", str(seconds))
        try:
            said = line(client)
        finally:
            end(client)
        if not said:
            raise BenchError(f"{system.name}: newcomers were not served at all")
        return Served(**json.loads(said))

    def _forgotten(self, system: System, before: int) -> float:
        """Bytes that the second proxy holds more than before, within a minute."""
        until_s = time.monotonic() + FORGET_S
        while (more := accounting.pss_bytes(system.second) - before) > SPARE_BYTES:
            if time.monotonic() > until_s:
                break
            time.sleep(1.0)
        return max(0.0, float(more))

    def _start(self, system: System, node: str, mode: str, *arguments: str) -> subprocess.Popen[bytes]:
        assert system.hbone is not None
        topology = self._stage.topology_of(system)
        place = topology.nodes[node].netns if node else system.client.netns
        host, port = system.hbone.target if node else system.target
        command = [sys.executable, "-m", "tests.bench.strangers", mode, host, str(port)]
        command += [*arguments, str(self._stage.core("node-a"))]
        return topology.processes.start(f"{mode}-{system.name}", place, command, stdout=subprocess.PIPE)


# -- the processes


class Crowd:
    """So many connections in all; those that the server ends are forgotten, the others kept."""

    def __init__(self, address: tuple[str, int], count: int, word: bytes) -> None:
        self._address = address
        self._count = count
        self._word = word
        self._made = 0
        self._socks: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._most = hard - FILES_KEPT

    def run(self) -> None:
        """Until this process is killed."""
        began_s = time.monotonic()
        say("begin")
        while True:
            due = min(self._count, int((time.monotonic() - began_s) * PER_S))
            while self._made < due and len(self._socks) < self._most:
                self._come()
            for fd, mask in self._epoll.poll(0.002):
                self._on_event(fd, mask)

    def _come(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.bind((f"{NETWORK}.{100 + self._made % ADDRESSES}", 0))
        sock.connect_ex(self._address)
        self._made += 1
        self._socks[sock.fileno()] = sock
        self._epoll.register(sock, select.EPOLLOUT | select.EPOLLONESHOT)

    def _on_event(self, fd: int, mask: int) -> None:
        sock = self._socks[fd]
        try:
            if mask & select.EPOLLOUT:
                sock.send(self._word)
                self._epoll.modify(fd, select.EPOLLRDHUP)
                return
        except OSError:
            pass  # sent away before it spoke
        self._epoll.unregister(fd)
        del self._socks[fd]
        sock.close()


def newcomers(address: tuple[str, int], seconds: float) -> Served:
    live = connected(address, LIVE, b"E")
    until_s, times, failed = time.monotonic() + seconds, [], 0
    while time.monotonic() < until_s:
        began_ns = time.perf_counter_ns()
        try:
            (sock,) = connected(address, 1, b"E")
            sock.close()
        except OSError:
            failed += 1
        times.append(time.perf_counter_ns() - began_ns)
        time.sleep(GAP_S)
    lost = 0
    for sock in live:
        try:
            sock.settimeout(PATIENCE_S)
            sock.send(b"x")
            lost += sock.recv(1) != b"x"
        except OSError:
            lost += 1
        sock.close()
    times.sort()
    return Served(times[len(times) * 99 // 100] / 1000, failed, lost)


def main() -> None:
    mode, host, port, *arguments, cpu = sys.argv[1:]
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    if mode == "crowd":
        kind, count = arguments
        word = hello() if kind == "half-open" else b"nonsense, and no TLS"
        Crowd((host, int(port)), int(count), word).run()
    else:
        served = newcomers((host, int(port)), float(arguments[0]))
        say(json.dumps({"p99_us": served.p99_us, "failed": served.failed, "lost": served.lost}))


if __name__ == "__main__":
    main()
