"""More clients like those of `load`: one thing beside another. `python -S -E -m tests.bench.beside KIND ...`."""

from __future__ import annotations

import heapq
import os
import select
import signal
import socket
import statistics
import sys
import time
from typing import Any

from tests.bench.load import (
    GIVEN,
    MESSAGE_BYTES,
    PATIENCE_S,
    STALL_BUFFER_BYTES,
    Address,
    Client,
    Span,
    SpanOf,
    connected,
    download,
    main,
    round_trips,
    say,
    told,
)

STALL_PATIENCE_S = 2.0
"""An answer that takes so long beside stalled connections counts as one that never comes."""
STILL_S = 0.5
FILL_S = 60.0
"""How long proxies may take, at most, to fill with what nobody reads."""
ASKED_PER_S = 20.0
"""Of an interactive connection."""
AT_ONCE = 64
COMPARED = 100
"""So many of the first and of the last connections, once some are open."""


def stalled(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """Round trips of one connection, first alone, then beside `count` downloads that nobody reads."""
    quiet = round_trips(connected(address, 1, b"E"), span_of(says_so=False), PATIENCE_S)
    unread = _unread(address, count)
    span = span_of()
    try:
        socks = connected(address, 1, b"E", STALL_PATIENCE_S)
    except TimeoutError:
        socks = []
    times = round_trips(socks, span, STALL_PATIENCE_S)
    del unread
    # An answer that does not come decides, however many came before it.
    if not times or times[-1] >= STALL_PATIENCE_S * 1e9:
        times = [int(STALL_PATIENCE_S * 1e9)]
    return told(times, span) | {"quiet_p99_us": quiet[len(quiet) * 99 // 100] / 1000}


def _wait_until_still(asking: socket.socket) -> None:
    """Return when the server has given nothing for a while: what proxies hold is full by then, and nothing moves.

    The readers' own sockets are full long before. Who does not answer any more serves nobody else: it is full, too.
    """
    asking.settimeout(STALL_PATIENCE_S)
    before, since_s, end_s = -1, time.monotonic(), time.monotonic() + FILL_S
    while time.monotonic() - since_s < STILL_S and time.monotonic() < end_s:
        try:
            asking.sendall(b"?")
            answer = asking.recv(GIVEN.size, socket.MSG_WAITALL)
        except TimeoutError:
            return
        if len(answer) < GIVEN.size:  # no server of ours
            return
        (given,) = GIVEN.unpack(answer)
        if given != before:
            before, since_s = given, time.monotonic()
        time.sleep(0.02)


def _unread(address: Address, count: int) -> list[socket.socket]:
    """Downloads that nobody reads, once nothing moves any more."""
    held = []
    asking = connected(address, 1, b"?")[0]
    asking.recv(GIVEN.size, socket.MSG_WAITALL)
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALL_BUFFER_BYTES)
        sock.connect(address)
        sock.send(b"H")
        held.append(sock)
    with asking:
        _wait_until_still(asking)
    return held


def stall(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """`count` downloads that nobody reads, until this process is killed."""
    held = _unread(address, count)
    say("begin")
    signal.pause()
    return {"count": len(held)}


def interactive(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """Round trips of `count` connections that ask twenty times a second, first alone, then beside a bulk download."""
    socks = connected(address, count, b"E")
    quiet = _paced(socks, span_of(says_so=False), ASKED_PER_S * count)
    bulk = os.fork()
    if not bulk:
        download(address, 1, lambda: Span(0.0, FILL_S, says_so=False))
        os._exit(0)
    try:
        times = _paced(socks, span := span_of(), ASKED_PER_S * count)
    finally:
        os.kill(bulk, signal.SIGKILL)
        os.waitpid(bulk, 0)
    return told(times, span) | {"quiet_p99_us": quiet[len(quiet) * 99 // 100] / 1000}


def paced(address: Address, count: int, span_of: SpanOf, rate: float) -> dict[str, Any]:
    """Round trips of `count` connections that ask so often a second, all together."""
    return told(_paced(connected(address, count, b"E"), span := span_of(), rate), span)


def _paced(socks: list[socket.socket], span: Span, rate: float) -> list[int]:
    """Nanoseconds of each round trip, sorted. A connection asks at its own times, or at once when one has passed."""
    epoll, message, now = select.epoll(), bytes(MESSAGE_BYTES), time.perf_counter_ns
    begin_ns, gap_ns = now(), int(len(socks) / rate * 1e9)
    due = [(begin_ns + gap_ns * n // len(socks), sock.fileno()) for n, sock in enumerate(socks)]
    next_ns, asked_ns, missing, times = {}, {}, {}, []
    for sock in socks:
        sock.setblocking(False)
        epoll.register(sock, select.EPOLLIN)
    while not span.took_s:
        while due and due[0][0] <= now():
            at_ns, fd = heapq.heappop(due)
            next_ns[fd], asked_ns[fd], missing[fd] = at_ns + gap_ns, now(), MESSAGE_BYTES
            os.write(fd, message)
        wait_s = max(0.0, (due[0][0] - now()) / 1e9) if due else PATIENCE_S
        for fd, _ in epoll.poll(min(wait_s, PATIENCE_S)):
            size = len(os.read(fd, MESSAGE_BYTES))
            if not size:
                raise ConnectionError("the connection ended in the middle of an exchange")
            missing[fd] -= size
            if not missing[fd]:
                done_ns = now()
                times.append(done_ns - asked_ns[fd])
                heapq.heappush(due, (max(next_ns[fd], done_ns), fd))
        if span.tick():
            times.clear()
    # All are to be answered, for whoever goes on with these connections.
    for fd in [fd for fd, size in missing.items() if size]:
        os.set_blocking(fd, True)
        while missing[fd]:
            missing[fd] -= len(os.read(fd, missing[fd]))
        times.append(now() - asked_ns[fd])
    times.sort()
    return times


def many(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """`count` connections that stay open: how long the last take to be made, and the first, once some were."""
    socks = connected(address, COMPARED, b"E")
    say("begin")
    began_s = time.monotonic()
    first_us = _one_by_one(address, socks)
    while len(socks) < count - COMPARED:
        socks += _at_once(address, min(AT_ONCE, count - COMPARED - len(socks)))
    last_us = _one_by_one(address, socks)
    seconds = time.monotonic() - began_s
    return {"seconds": seconds, "count": len(socks), "first_us": first_us, "last_us": last_us}


def _one_by_one(address: Address, socks: list[socket.socket]) -> float:
    """The median of what COMPARED more take, in microseconds."""
    times = []
    for _ in range(COMPARED):
        began_ns = time.perf_counter_ns()
        socks += connected(address, 1, b"E")
        times.append(time.perf_counter_ns() - began_ns)
    return statistics.median(times) / 1000


def _at_once(address: Address, count: int) -> list[socket.socket]:
    """The same as `connected`, without waiting for one after the other."""
    socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        sock.setblocking(False)
        sock.connect_ex(address)
    for sock in socks:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        poll.poll(PATIENCE_S * 1000)
        sock.settimeout(PATIENCE_S)
        sock.send(b"E")
    for sock in socks:
        if sock.recv(1) != b"E":
            raise ConnectionError(f"{address} does not echo")
    return socks


def hold(address: Address, count: int, span_of: SpanOf) -> dict[str, Any]:
    """Open `count` connections, use each once, keep them until this process is killed."""
    socks = connected(address, count, b"E")
    say("begin")
    signal.pause()
    return {"count": len(socks)}


CLIENTS: dict[str, Client] = {
    "stalled": stalled,
    "stall": stall,
    "interactive": interactive,
    "paced": paced,
    "many": many,
    "hold": hold,
}

if __name__ == "__main__":
    main(sys.argv[1:], CLIENTS)
