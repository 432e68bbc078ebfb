"""The applications of the bench, both ends: `python -S -E load.py KIND ...`. Standard library only.

One epoll loop and few system calls per message, so that the generator is not what is measured. A client says
`begin` on its output when the warm-up is over, and one line of JSON when the measured time is. The first byte of
a connection tells the server what to do: `S` read and forget, `G` send without end, `H` the same from a small buffer,
`?` answer each byte with how many bytes it has given, any other: echo.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

CHUNK_BYTES = 256 * 1024
MESSAGE_BYTES = 128
ROUND_EVENTS = 256
PATIENCE_S = 10.0
STALL_BUFFER_BYTES = 64 * 1024
GIVEN = struct.Struct("!Q")
Address = tuple[str, int]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Server:
    """Serves every connection of one port until it is killed."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("0.0.0.0", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._connections: dict[int, tuple[socket.socket, Callable[[int, socket.socket], None]]] = {}
        self._scratch = memoryview(bytearray(CHUNK_BYTES))
        self._given = 0

    def run(self) -> None:
        listening, connections = self._listener.fileno(), self._connections
        say(f"ready {self._listener.getsockname()[1]}")
        while True:
            for fd, _ in self._epoll.poll(maxevents=ROUND_EVENTS):
                if fd == listening:
                    self._accept()
                    continue
                sock, handle = connections[fd]
                try:
                    handle(fd, sock)
                except BlockingIOError:
                    continue
                except OSError:
                    self._close(fd)

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[sock.fileno()] = (sock, self._first)
                self._epoll.register(sock, select.EPOLLIN)
        except BlockingIOError:
            return

    def _first(self, fd: int, sock: socket.socket) -> None:
        mode = sock.recv(1, socket.MSG_PEEK)
        if mode in (b"G", b"H"):
            if mode == b"H":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STALL_BUFFER_BYTES)
            sock.recv(1)
            self._connections[fd] = (sock, self._give)
            self._epoll.modify(fd, select.EPOLLOUT)
        else:
            handle = {b"S": self._swallow, b"?": self._tell}.get(mode, self._echo)
            self._connections[fd] = (sock, handle)
            handle(fd, sock)

    def _echo(self, fd: int, sock: socket.socket) -> None:
        # One small message is in flight per connection: the socket's buffer always has room for it.
        data = os.read(fd, CHUNK_BYTES)
        if data:
            os.write(fd, data)
        else:
            self._close(fd)

    def _swallow(self, fd: int, sock: socket.socket) -> None:
        if not sock.recv_into(self._scratch):
            self._close(fd)

    def _give(self, fd: int, sock: socket.socket) -> None:
        self._given += sock.send(self._scratch)

    def _tell(self, fd: int, sock: socket.socket) -> None:
        if sock.recv(1):
            sock.send(GIVEN.pack(self._given))
        else:
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._connections.pop(fd)[0].close()


class Span:
    """The measured time: begins after the warm-up, ends `length_s` later. `says_so`: the beginning is told."""

    def __init__(self, warm_up_s: float, length_s: float, *, says_so: bool = True) -> None:
        self._says_so = says_so
        self._warm_until_s = time.monotonic() + warm_up_s
        self._length_s = length_s
        self.is_open = False
        self._began_s = 0.0
        self.took_s = 0.0

    def tick(self) -> bool:
        """Look at the clock: True when the warm-up has just ended. `took_s` is set once all is over."""
        now_s = time.monotonic()
        if not self.is_open:
            if now_s < self._warm_until_s:
                return False
            self.is_open, self._began_s = True, now_s
            if self._says_so:
                say("begin")
            return True
        if now_s - self._began_s >= self._length_s:
            self.took_s = now_s - self._began_s
        return False


SpanOf = Callable[..., Span]
Client = Callable[..., dict[str, Any]]


def connected(
    address: Address, count: int, first: bytes, patience_s: float = PATIENCE_S
) -> list[socket.socket]:
    """Connections on which `first` was sent; with an echo, once the answer came."""
    socks = []
    for _ in range(count):
        sock = socket.create_connection(address, patience_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.send(first)
        if first == b"E" and sock.recv(1) != first:
            raise ConnectionError(f"{address} does not echo")
        socks.append(sock)
    return socks


def upload(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    return _bulk(connected(address, count, b"S"), select.EPOLLOUT, span_of())


def download(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    return _bulk(connected(address, count, b"G"), select.EPOLLIN, span_of())


def _bulk(socks: list[socket.socket], direction: int, span: Span) -> dict[str, Any]:
    epoll, scratch = select.epoll(), memoryview(bytearray(CHUNK_BYTES))
    move: dict[int, Callable[[memoryview], int]] = {}
    for sock in socks:
        sock.setblocking(False)
        move[sock.fileno()] = sock.recv_into if direction == select.EPOLLIN else sock.send
        epoll.register(sock, direction)
    moved = 0
    while not span.took_s:
        for fd, _ in epoll.poll(PATIENCE_S):
            try:
                size = move[fd](scratch)
            except BlockingIOError:
                continue
            if not size:
                raise ConnectionError("the connection ended in the middle of the transfer")
            moved += size
        if span.tick():
            moved = 0
    return {"bytes": moved, "seconds": span.took_s}


def exchange(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """Request and response of 128 bytes, one in flight per connection."""
    socks, span = connected(address, count, b"E"), span_of()
    return told(round_trips(socks, span, PATIENCE_S), span)


def told(times: list[int], span: Span) -> dict[str, Any]:
    """What a client says of its round trips: nanoseconds, sorted."""
    return {
        "count": len(times),
        "seconds": span.took_s,
        "p50_us": times[len(times) // 2] / 1000 if times else 0.0,
        "p99_us": times[len(times) * 99 // 100] / 1000 if times else 0.0,
    }


def round_trips(socks: list[socket.socket], span: Span, patience_s: float) -> list[int]:
    """Nanoseconds of each round trip of the measured time, sorted; also of those that were still under way."""
    epoll, message, now = select.epoll(), bytes(MESSAGE_BYTES), time.perf_counter_ns
    sent_ns, missing, times = {}, {}, []
    for sock in socks:
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN)
        fd = sock.fileno()
        sent_ns[fd], missing[fd] = now(), MESSAGE_BYTES
        os.write(fd, message)
    while not span.took_s:
        for fd, _ in epoll.poll(patience_s, ROUND_EVENTS):
            size = len(os.read(fd, MESSAGE_BYTES))
            if size != missing[fd]:
                if not size:
                    raise ConnectionError("the connection ended in the middle of an exchange")
                missing[fd] -= size
                continue
            done_ns = now()
            times.append(done_ns - sent_ns[fd])
            sent_ns[fd], missing[fd] = done_ns, MESSAGE_BYTES
            os.write(fd, message)
        if span.tick():
            times.clear()
    times.extend(age for age in (now() - at for at in sent_ns.values()) if age >= patience_s * 1e9)
    times.sort()
    return times


def connect(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """Open, one byte there and back, close: `count` at a time. Says what the client itself has cost as well."""
    epoll, socks, span, now = select.epoll(), {}, span_of(), time.perf_counter_ns
    times: list[int] = []
    failed = 0
    used = resource.getrusage(resource.RUSAGE_SELF)

    def start() -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        began_ns = now()
        sock.connect_ex(address)
        socks[sock.fileno()] = sock, began_ns
        epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    for _ in range(count):
        start()
    while not span.took_s:
        for fd, mask in epoll.poll(PATIENCE_S, ROUND_EVENTS):
            sock, began_ns = socks[fd]
            try:
                if not mask & select.EPOLLIN:
                    sock.send(b"E")
                    continue
                is_echoed = sock.recv(2) == b"E"
            except OSError:
                is_echoed = False
            if is_echoed:
                times.append(now() - began_ns)
            failed += not is_echoed
            del socks[fd]
            sock.close()
            start()
        if span.tick():
            times.clear()
            failed = 0
            used = resource.getrusage(resource.RUSAGE_SELF)
    own = resource.getrusage(resource.RUSAGE_SELF)
    times.sort()
    return told(times, span) | {
        "failed": failed,
        "cpu_s": own.ru_utime + own.ru_stime - used.ru_utime - used.ru_stime,
        "switches": own.ru_nvcsw - used.ru_nvcsw,
    }


def refused(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """One connection after the other to a port that nobody has, until it is known that it came to nothing."""
    closed, times, span = (address[0], address[1] + 1), [], span_of()
    while not span.took_s:
        began_ns = time.perf_counter_ns()
        with socket.socket() as sock:
            sock.settimeout(PATIENCE_S)
            try:
                sock.connect(closed)
                sock.send(b"E")
                is_served = bool(sock.recv(1))
            except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                is_served = False
        if is_served:
            raise ConnectionError(f"{closed} answers")
        times.append(time.perf_counter_ns() - began_ns)
        if span.tick():
            times.clear()
    times.sort()
    return told(times, span)


CLIENTS = {
    "upload": upload,
    "download": download,
    "exchange": exchange,
    "connect": connect,
    "refused": refused,
}


def main(argv: list[str], clients: Mapping[str, Client] = CLIENTS) -> None:
    """`serve PORT CPU` or `CLIENT HOST PORT COUNT[@RATE] WARM_UP_S LENGTH_S CPU`; CPU -1 pins to none."""
    kind, *rest = argv
    *rest, cpu = rest
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind == "serve":
        Server(int(rest[0])).run()
        return
    host, port, count, warm_up_s, length_s = rest
    span_of = functools.partial(Span, float(warm_up_s), float(length_s))
    count, _, rate = count.partition("@")
    result = clients[kind]((host, int(port)), int(count), span_of, *([float(rate)] if rate else []))
    say(json.dumps(result))
    # Thousands of sockets at once: the kernel closes them faster than Python.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
