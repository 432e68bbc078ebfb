"""What a new connection costs by the way that leads it to a relay: our capture, TPROXY and REDIRECT, and none.

Each way has a node of its own, with a client pod and a server pod, and the same client, relay and server; nodes track
connections, as kube-proxy has them do. CPU time of all of it, the kernel's included: nearly all of what the kernel does
for a packet is done by whoever sends it, and the rest by ksoftirqd of the core, which is counted too.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from redirect import host_addresses, netns, sys_bpf
from redirect.desired import Desired
from redirect.layout import PROGRAMS, SLOTS
from redirect.locate import locate
from redirect.reconcile import Redirection
from tests.bench import accounting, iptables
from tests.bench.pods import add_pod, address_of
from tests.bench.way_ends import KEPT, MARKED, PLAIN, listening

PORT, PROXY_PORT = 8080, 15001
NONE, OURS, TPROXY, REDIRECT, IN_POD = "none", "ztun", "TPROXY", "REDIRECT", "istio-cni"
WAYS = (NONE, OURS, TPROXY, REDIRECT, IN_POD)
RIVALS = (TPROXY, REDIRECT, IN_POD)
BACK, ONWARD = "back", "onward"
KINDS = (BACK, ONWARD)
"""Answered by the relay itself, which is the cost of leading it there; and relayed to the server it was meant for."""
ROUNDS, CONNECTIONS, WARM_UP = 15, 400, 200
CLIENT, SERVER = 1, 2
CORE = 0
LOAD_TIMEOUT_S = 600.0
_BPF_ENABLE_STATS = 32


@dataclass(frozen=True, slots=True)
class Way:
    """The processes of one way. `pids`: all of them."""

    client: subprocess.Popen[str]
    pids: tuple[int, ...]

    def run(self, kind: str, count: int) -> None:
        """So many connections of a kind. Raises RuntimeError where one failed."""
        assert self.client.stdin is not None and self.client.stdout is not None
        self.client.stdin.write(f"{count} {kind}\n")
        self.client.stdin.flush()
        failed = self.client.stdout.readline().strip()
        if failed != "0":
            raise RuntimeError(f"{failed or 'all'} of {count} connections failed")

    def cpu_us(self, kind: str, count: int) -> float:
        """Of each of so many connections."""
        pids = (*self.pids, *_ksoftirqd())
        before = sum(map(_ran_ns, pids))
        self.run(kind, count)
        return (sum(map(_ran_ns, pids)) - before) / 1000 / count


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """Of one program: how long it takes (bpf_stats, which itself is some of it), and how often it runs."""

    name: str
    ns: float
    runs: float
    """For each connection."""


@dataclass(frozen=True, slots=True)
class Compared:
    """`cpu_us` by kind and way, the median of rounds; `over`: what ours takes over each rival, of the same rounds."""

    cpu_us: dict[str, dict[str, float]]
    over: dict[str, dict[str, float]]
    programs: tuple[ProgramCost, ...]


def compare(prefix: str, directory: Path, tell: Callable[[str], None]) -> Compared:
    """Raises FileNotFoundError without iptables, RuntimeError where a way does not work."""
    with ExitStack() as opened:
        ways = {name: opened.enter_context(_way(name, prefix, directory)) for name in WAYS}
        for way in ways.values():
            accounting.pin(way.pids, CORE)
            for kind in KINDS:
                way.run(kind, WARM_UP)
        taken: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in WAYS} for kind in KINDS}
        for number in range(ROUNDS):
            # In another order each time: what follows on a costly one must not always be the same.
            order = WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]
            for kind in KINDS:
                for name in order:
                    taken[kind][name].append(ways[name].cpu_us(kind, CONNECTIONS))
        tell(f"{ROUNDS * CONNECTIONS} connections of each kind by each way")
        cpu_us = {
            kind: {name: statistics.median(each) for name, each in found.items()}
            for kind, found in taken.items()
        }
        over = {
            kind: {name: _over(found[OURS], found[name]) for name in RIVALS} for kind, found in taken.items()
        }
        return Compared(cpu_us, over, tuple(_program_costs(prefix, directory, ways[OURS])))


def _over(ours: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def _program_costs(prefix: str, directory: Path, way: Way) -> Iterator[ProgramCost]:
    pins = Redirection(f"{prefix}w", directory).pins
    fds = {name: pins.open_program(name) for name in PROGRAMS}
    try:
        with _run_times_counted():
            before = {name: sys_bpf.prog_info(fd) for name, fd in fds.items()}
            way.run(ONWARD, CONNECTIONS)
            after = {name: sys_bpf.prog_info(fd) for name, fd in fds.items()}
    finally:
        for fd in fds.values():
            os.close(fd)
    for name in PROGRAMS:
        runs = after[name].run_count - before[name].run_count
        took_ns = after[name].run_time_ns - before[name].run_time_ns
        yield ProgramCost(name, took_ns / runs if runs else 0.0, runs / CONNECTIONS)


@contextmanager
def _run_times_counted() -> Iterator[None]:
    """`sysctl kernel.bpf_stats_enabled=1`, for as long as somebody wants it: the kernel counts the wishes."""
    fd = sys_bpf.call(_BPF_ENABLE_STATS, struct.pack("=I", 0))
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def _way(name: str, prefix: str, directory: Path) -> Iterator[Way]:
    number = WAYS.index(name)
    made = [f"{prefix}-w{number}{part}" for part in "ncs"]
    with ExitStack() as opened:
        for each in made:
            opened.callback(netns.remove, each)
        node, client, server = (netns.ensure(each) for each in made)
        with netns.entered(node), IPRoute() as ip:
            ip.link("set", index=1, state="up")
            ip.addr("add", index=1, address="10.63.0.1", prefixlen=32)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            for at, pod in ((CLIENT, client), (SERVER, server)):
                add_pod(ip, at, pod)
            iptables.track()
        for pod in (client, server):
            with netns.entered(pod), IPRoute() as ip:
                ip.link("set", index=1, state="up")
        places = {"node": node, "client": client}
        relay = opened.enter_context(_led(name, f"{prefix}w", directory, places)) if name != NONE else None
        far = opened.enter_context(_process(server, "server", str(PORT)))
        near = opened.enter_context(_process(client, "client", address_of(SERVER), str(PORT)))
        relays = () if relay is None else (relay.pid,)
        yield Way(near, (near.pid, far.pid, *relays))


@contextmanager
def _led(
    name: str, instance: str, directory: Path, places: dict[str, Path]
) -> Iterator[subprocess.Popen[str]]:
    """The relay, with connections of the client led to it."""
    if name == OURS:
        with _captured(instance, directory, places) as relay:
            yield relay
        return
    inside = places["client"] if name == IN_POD else places["node"]
    with netns.entered(inside):
        if name == IN_POD:
            iptables.istio_rules()
        else:
            iptables.lead(f"bv{CLIENT}", PORT, PROXY_PORT, is_tproxy=name == TPROXY)
        listener = listening(PROXY_PORT, is_transparent=name == TPROXY)
    dials = MARKED if name == IN_POD else PLAIN
    with listener, _relay(inside, listener, dials, is_redirected=name != TPROXY) as relay:
        yield relay


@contextmanager
def _captured(instance: str, directory: Path, places: dict[str, Path]) -> Iterator[subprocess.Popen[str]]:
    with netns.entered(places["node"]):
        redirection = Redirection(instance, directory, load_timeout_s=LOAD_TIMEOUT_S)
        try:
            redirection.prepare()
            pod_side, net_side = redirection.private_namespaces
            with netns.entered(pod_side):
                listener = listening(PROXY_PORT, is_transparent=True)
            with listener:
                redirection.set_listeners(dict.fromkeys(SLOTS, listener.fileno()))
                place = locate(netns=places["client"])
                redirection.apply(Desired((place.desired(),), host_addresses.local()))
                with _relay(net_side, listener, KEPT, is_redirected=False) as relay:
                    yield relay
        finally:
            # The thread may be in another namespace by now.
            with netns.entered(places["node"]):
                redirection.uninstall()
            redirection.close()


@contextmanager
def _relay(
    inside: Path, listener: socket.socket, dials: str, *, is_redirected: bool
) -> Iterator[subprocess.Popen[str]]:
    words = (str(listener.fileno()), dials, "redirected" if is_redirected else "straight")
    with _process(inside, "relay", *words, fds=(listener.fileno(),)) as relay:
        yield relay


@contextmanager
def _process(inside: Path, *words: str, fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.bench.way_ends", *words]
    with netns.entered(inside):
        started = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds
        )
    try:
        assert started.stdout is not None
        if started.stdout.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield started
    finally:
        started.kill()
        started.communicate()


def _ran_ns(pid: int) -> int:
    """CPU time of a process of one thread, to the nanosecond. Raises FileNotFoundError when it is gone."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _ksoftirqd() -> tuple[int, ...]:
    """That of the core; in a pid namespace of one's own it is not seen."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text() == f"ksoftirqd/{CORE}\n":
                return (int(path.parent.name),)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ()
