"""The applications of `tests.bench.pairs`: each client pod keeps a connection to each server pod.

`python -S -E reunion.py PORT FILE CPU`, FILE a JSON of the namespaces: `servers` {path: address}, `clients` [path]. One
process has the sockets of all pods. What ends or fails is opened again at once, as an application does. It says
when all have answered, and after each SIGUSR1 when all have answered anew: a line of JSON with the seconds of the
monotonic clock at which the first had ended and each had answered. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
WORD = b"E"
AGAIN_S = 0.01
Address = tuple[str, int]

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """This thread in a network namespace. Raises OSError."""
    with open("/proc/thread-self/ns/net") as own, open(netns) as other:
        enter(other.fileno())
        try:
            yield
        finally:
            enter(own.fileno())


def enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Pair:
    """One connection, and whether it has ended and answered since all were asked for."""

    __slots__ = ("address", "has_answered", "has_ended", "netns", "sock")

    def __init__(self, netns: int, address: Address) -> None:
        self.netns = netns
        self.address = address
        self.sock: socket.socket | None = None
        self.has_answered = self.has_ended = False


class Pairs:
    """Every one of them, and the servers at their other ends."""

    def __init__(self, servers: dict[str, str], clients: list[str], port: int) -> None:
        self._epoll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._served: dict[int, socket.socket] = {}
        self._open: dict[int, Pair] = {}
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        for netns, address in servers.items():
            with inside(netns):
                listener = socket.create_server((address, port), backlog=4096)
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
            self._epoll.register(listener, select.EPOLLIN)
        self._later: list[tuple[float, Pair]] = []
        self.pairs = [
            Pair(netns, (address, port))
            for netns in (os.open(path, os.O_RDONLY) for path in clients)
            for address in servers.values()
        ]
        self.first_end_s = 0.0
        self.answered_s: list[float] = []

    def begin(self) -> None:
        for pair in self.pairs:
            self._start(pair)
        enter(self._own)

    def forget(self) -> None:
        """From here on each is to end and to answer again."""
        self.first_end_s, self.answered_s = 0.0, []
        for pair in self.pairs:
            pair.has_ended = pair.has_answered = False

    def run(self) -> None:
        """Until all have answered."""
        while len(self.answered_s) < len(self.pairs):
            self.turn()

    def turn(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._start(self._later.pop(0)[1])
            enter(self._own)
        for fd, mask in self._epoll.poll(AGAIN_S, 512):
            if fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd in self._served:
                self._serve(fd)
            else:
                self._hear(fd, mask)

    def _start(self, pair: Pair) -> None:
        """Leaves the thread in the pod's namespace."""
        enter(pair.netns)
        sock = pair.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect_ex(pair.address)
        self._open[sock.fileno()] = pair
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def _hear(self, fd: int, mask: int) -> None:
        pair = self._open[fd]
        assert pair.sock is not None
        try:
            if not mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                pair.sock.send(WORD)
                return
            said = pair.sock.recv(2)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self._answered(pair)
            return
        now_s = time.monotonic()
        if not pair.has_ended:
            self.first_end_s = self.first_end_s or now_s
            pair.has_ended = True
        del self._open[fd]
        pair.sock.close()
        self._later.append((now_s + AGAIN_S, pair))

    def _answered(self, pair: Pair) -> None:
        if not pair.has_answered:
            pair.has_answered = True
            self.answered_s.append(time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                self._served[sock.fileno()] = sock
                self._epoll.register(sock, select.EPOLLIN)
        except BlockingIOError:
            return

    def _serve(self, fd: int) -> None:
        sock = self._served[fd]
        try:
            said = sock.recv(64)
            if said:
                sock.send(said)
        except OSError:
            said = b""
        if not said:
            del self._served[fd]
            sock.close()


def main() -> None:
    port, file, cpu = sys.argv[1:]
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    places = json.loads(Path(file).read_text())
    pairs = Pairs(places["servers"], places["clients"], int(port))
    pairs.begin()
    pairs.run()
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda signum, frame: asked.append(signum))
    while True:
        sys.stdout.write(
            f"{json.dumps({'first_end_s': pairs.first_end_s, 'answered_s': pairs.answered_s})}\n"
        )
        sys.stdout.flush()
        while not asked:
            pairs.turn()
        asked.clear()
        pairs.forget()
        pairs.run()


if __name__ == "__main__":
    main()
