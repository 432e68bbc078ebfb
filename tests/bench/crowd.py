"""The processes around a crowd of strangers: `python -m tests.bench.crowd crowd|newcomers|members …`.

A crowd connects from many addresses to the tunnel port, says its word once and then nothing. Newcomers open connections
to the application one after another, and say something on one that lives in between. Members shake hands with the
tunnel port, one after another.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from OpenSSL import SSL

from tests.bench.handshakes import context, shake
from tests.bench.load import PATIENCE_S, connected, say
from tests.support.client_hello import hello

PER_S = 2_000
"""How many come in a second; what makes them is on the core of the first proxy."""
ADDRESSES = 50
NETWORK = "172.31.250"
LIVE = 20
GAP_S = 0.005
MEMBERS_GAP_S = 0.04
FILES_KEPT = 500
WORDS: dict[str, Callable[[], bytes]] = {
    "half-open": hello,
    "begun": lambda: hello()[:100],
    "garbage": lambda: b"nonsense, and no TLS",
}
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Served:
    """What newcomers saw: microseconds of the slowest of a hundred, and what went wrong."""

    p99_us: float
    live_p99_us: float
    failed: int
    lost: int


@dataclass(frozen=True, slots=True)
class Shaken:
    """What members saw."""

    p99_us: float
    failed: int


class Crowd:
    """So many connections in all; those that the server ends are forgotten, the others kept."""

    def __init__(self, address: Address, count: int, word: bytes) -> None:
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


def p99_us(times_ns: list[int]) -> float:
    """Of those that there are; 0 where there is none."""
    times_ns.sort()
    return times_ns[len(times_ns) * 99 // 100] / 1000 if times_ns else 0.0


def newcomers(address: Address, seconds: float) -> Served:
    live = connected(address, LIVE, b"E")
    until_s, times, live_times, failed = time.monotonic() + seconds, [], [], 0
    gone: set[socket.socket] = set()
    while time.monotonic() < until_s:
        began_ns = time.perf_counter_ns()
        try:
            (sock,) = connected(address, 1, b"E")
            sock.close()
        except OSError:
            failed += 1
        times.append(time.perf_counter_ns() - began_ns)
        one = live[len(times) % LIVE]
        time.sleep(GAP_S)
        began_ns = time.perf_counter_ns()
        if one not in gone and not answers(one):
            gone.add(one)
        live_times.append(time.perf_counter_ns() - began_ns)
    lost = len(gone) + sum(one not in gone and not answers(one) for one in live)
    for sock in live:
        sock.close()
    return Served(p99_us(times), p99_us(live_times), failed, lost)


def answers(sock: socket.socket) -> bool:
    """Whether its server still echoes."""
    try:
        sock.settimeout(PATIENCE_S)
        sock.send(b"x")
        return sock.recv(1) == b"x"
    except OSError:
        return False


def members(address: Address, seconds: float, directory: Path) -> Shaken:
    made, until_s = context(directory), time.monotonic() + seconds
    times, failed = [], 0
    while time.monotonic() < until_s:
        began_ns = time.perf_counter_ns()
        try:
            shake(made, address).close()
        except (OSError, SSL.Error):
            failed += 1
        times.append(time.perf_counter_ns() - began_ns)
        time.sleep(MEMBERS_GAP_S)
    return Shaken(p99_us(times), failed)


def main() -> None:
    mode, host, port, *arguments, cpu = sys.argv[1:]
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    address = (host, int(port))
    if mode == "crowd":
        kind, count = arguments
        Crowd(address, int(count), WORDS[kind]()).run()
    elif mode == "newcomers":
        say(json.dumps(asdict(newcomers(address, float(arguments[0])))))
    else:
        say(json.dumps(asdict(members(address, float(arguments[0]), Path(arguments[1])))))


if __name__ == "__main__":
    main()
