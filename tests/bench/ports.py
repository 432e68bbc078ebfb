"""`scripts/bench ports`: one address opens 200,000 connections to one port of one captured pod, some at a time.

As from behind a masquerade: to the pod all of it is one client, whose ports come round every 64,000 connections. The
proxy dials the application in that client's name, from its port where it can, so every port waits in TIME_WAIT on some
side when it comes round: half of the connections are ended by the client first, half by the server. Needs root.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import os
import select
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from agent.lab.wiring import write_sysctl
from redirect import netns
from tests.bench.accounting import cpu_s
from tests.bench.conclusion import conclude
from tests.support.labmesh import World, running

CONNECTIONS, AT_ONCE = 200_000, 64
PORT = 7171
PATIENCE_S = 30.0
CLIENT_FIRST, SERVER_FIRST, FIGURES = b"c", b"s", b"?"
MESSAGE = struct.Struct("!cH")
"""Who ends first, and the client's own port."""
COUNTS = struct.Struct("!QQ")
SYSCTLS = {"net/ipv4/tcp_tw_reuse": 1, "net/ipv4/ip_local_port_range": "1024 65535"}


@dataclass(frozen=True, slots=True)
class Called:
    """`failed`: by what the client was told; `kept`: connections that came to the server from the client's own port."""

    opened: int
    took_s: float
    slowest_s: float
    failed: dict[str, int] = field(default_factory=dict)
    kept: int = 0


def serve(namespace: Path, ready: SimpleQueue[bool]) -> None:
    netns.enter(namespace)
    listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
    poll, open_to = select.epoll(), {}
    poll.register(listener.fileno(), select.EPOLLIN)
    ready.put(True)
    served = kept = 0
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, peer = listener.accept()
                open_to[sock.fileno()] = sock, peer
                poll.register(sock.fileno(), select.EPOLLIN)
                continue
            sock, peer = open_to[fd]
            said = sock.recv(MESSAGE.size)
            if said:
                kind, port = MESSAGE.unpack(said)
                if kind == FIGURES:
                    sock.sendall(COUNTS.pack(served, kept))
                    continue
                served, kept = served + 1, kept + (port == peer[1])
                sock.sendall(b"k")
                if kind == CLIENT_FIRST:
                    continue
            del open_to[fd]
            sock.close()


class Caller:
    """Opens connections to one address, so many at a time."""

    def __init__(self, host: str, count: int, at_once: int) -> None:
        self._host, self._left, self._at_once = host, count, at_once
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, bytes, float]] = {}
        self._failed: Counter[str] = Counter()
        self._opened, self._slowest_s = 0, 0.0

    def run(self) -> Called:
        began_s = time.monotonic()
        while self._left or self._open:
            while self._left and len(self._open) < self._at_once:
                self._begin()
            found = self._poll.poll(PATIENCE_S)
            if not found:
                self._failed["no answer"] += len(self._open)
                break
            for fd, _ in found:
                self._on_event(fd)
        return Called(self._opened, time.monotonic() - began_s, self._slowest_s, dict(self._failed))

    def _begin(self) -> None:
        self._left -= 1
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = sock.connect_ex((self._host, PORT))
        if code not in (0, errno.EINPROGRESS):
            self._fail(sock, f"connect: {errno.errorcode[code]}")
            return
        kind = CLIENT_FIRST if self._left % 2 else SERVER_FIRST
        self._open[sock.fileno()] = sock, kind, time.monotonic()
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    def _on_event(self, fd: int) -> None:
        sock, kind, began_s = self._open[fd]
        try:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            if began_s:
                self._slowest_s = max(self._slowest_s, time.monotonic() - began_s)
                self._open[fd] = sock, kind, 0.0
                sock.send(MESSAGE.pack(kind, sock.getsockname()[1]))
                self._poll.modify(fd, select.EPOLLIN)
                return
            if sock.recv(1) and kind == SERVER_FIRST:
                return
        except OSError as error:
            self._forget(fd)
            self._fail(sock, errno.errorcode.get(error.errno or 0, str(error)))
            return
        self._forget(fd)
        self._opened += 1
        sock.close()

    def _fail(self, sock: socket.socket, why: str) -> None:
        self._failed[why] += 1
        sock.close()

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._open[fd]


def call(namespace: Path, host: str, count: int, at_once: int, said: SimpleQueue[Called]) -> None:
    netns.enter(namespace)
    for name, value in SYSCTLS.items():
        write_sysctl(name, value)
    found = Caller(host, count, at_once).run()
    with socket.create_connection((host, PORT), PATIENCE_S) as sock:
        sock.sendall(MESSAGE.pack(FIGURES, 0))
        _, kept = COUNTS.unpack(sock.recv(COUNTS.size, socket.MSG_WAITALL))
    said.put(Called(found.opened, found.took_s, found.slowest_s, found.failed, kept))


def measure(world: World, count: int, at_once: int) -> tuple[Called, float]:
    """What came of it, and CPU seconds of the node's workers."""
    fork = multiprocessing.get_context("fork")
    ready: SimpleQueue[bool] = fork.SimpleQueue()
    said: SimpleQueue[Called] = fork.SimpleQueue()
    server, client = world.place("server-a").netns, world.place("outsider-b").netns
    workers = list(world.workers("node-a").values())
    callee = fork.Process(target=serve, args=(server, ready), daemon=True)
    callee.start()
    try:
        ready.get()
        before_s = cpu_s(workers)
        arguments = (client, str(world.address("server-a")), count, at_once, said)
        caller = fork.Process(target=call, args=arguments, daemon=True)
        caller.start()
        found = said.get() if _ended_well(caller, said) else Called(0, 0.0, 0.0, {"the client ended": count})
        return found, cpu_s(workers) - before_s
    finally:
        callee.kill()
        callee.join()


def _ended_well(process: multiprocessing.process.BaseProcess, said: SimpleQueue[Called]) -> bool:
    while process.is_alive() and said.empty():
        process.join(0.2)
    return not said.empty()


def misses(of: Called, count: int) -> list[str]:
    failed = count - of.opened
    told = ", ".join(f"{number} {name}" for name, number in of.failed.items())
    return [f"{failed} of {count} connections failed ({told}), target none"] if failed else []


def table(of: Called, used_s: float) -> str:
    rows = [
        ("opened and answered", f"{of.opened:,}"),
        ("failed", ", ".join(f"{number} {name}" for name, number in of.failed.items()) or "0"),
        ("a second", f"{of.opened / of.took_s:,.0f}" if of.took_s else "-"),
        ("slowest connect()", f"{of.slowest_s * 1000:.0f} ms"),
        ("dialled from the client's own port", f"{of.kept / max(of.opened, 1):.1%}"),
        ("CPU of the worker, of each", f"{used_s * 1e6 / max(of.opened, 1):.0f} us"),
    ]
    return "\n".join(f"{name:<38}{value:>14}" for name, value in rows)


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench ports", description="many connections of one address to one captured pod"
    )
    parser.add_argument(
        "--connections", type=int, default=CONNECTIONS, metavar="N", help=f"default {CONNECTIONS:,}"
    )
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help=f"default {AT_ONCE}")
    parser.add_argument("--check", action="store_true", help="exit 1 when one of them fails")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    options = parser.parse_args(argv)
    if options.connections < 1 or options.at_once < 1:
        parser.error("--connections and --at-once: at least 1")
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as directory,
        running("m", Path(directory), flags={"workers": "1"}) as world,
    ):
        tell("the lab is there")
        found, used_s = measure(world, options.connections, options.at_once)
    head = f"{options.connections:,} connections of one address to one port of one pod, {options.at_once} at a time"
    figures = asdict(found) | {"workers_cpu_s": used_s}
    return conclude(
        f"{head}\n\n{table(found, used_s)}", figures, misses(found, options.connections), load, options, tell
    )
