"""What connections take of memory before their peer has proven who it is, and that all of it comes back."""

from __future__ import annotations

import ctypes
import gc
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from agent.identity.handshake import Session
from agent.net.loop import Loop
from tests.support import mesh
from tests.support.certs import TestCA, credentials
from tests.support.datapath import PATIENCE_S, DataPath
from tests.support.loopback import ours

POD = ours("2.13")
COUNT = 60
CALLER_BYTES, ANSWERED_BYTES = 5_000, 90_000
"""Measured are 3 and 79 kB with both ends' sockets, of which OpenSSL's are 64: room is for another one, or Python."""
LEFT_BYTES = 2_000
"""What tables keep of the room that each of many had, and lines that are still to be written."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


class Server:
    """The data plane of a node with one pod, and what this process has allocated."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        self._libc = libc
        self._crashes: list[BaseException] = []
        self._loop = Loop(time.monotonic, lambda error, fd: self._crashes.append(error))
        ca, workload = TestCA(), mesh.workload("server", POD, node="n2")
        self.plane = DataPath(self._loop, ca, node="n2", handshake_timeout_s="300")
        self.plane.know(workload)
        self.plane.add_pod(workload)
        client = credentials(ca, "spiffe://cluster.local/ns/demo/sa/client")
        self.hello = Session.client(client, (workload.identity,)).outgoing()
        # What is measured is each of them, not that there are few.
        for crowd in (self.plane.inbound.handshakes.callers, self.plane.inbound.handshakes.shaking):
            crowd.limit = crowd.limit_per_source = 10 * COUNT

    def close(self) -> None:
        self.plane.close()
        self._loop.close()
        assert not self._crashes

    def allocated(self) -> int:
        """By the C library's allocator, with OpenSSL's, and by Python's; what is large of Python's is in both."""
        gc.collect()
        info = self._libc.mallinfo2()
        return int(info.uordblks + info.hblkhd) + tracemalloc.get_traced_memory()[0]

    def call(self, peers: ExitStack, words: bytes) -> None:
        """Have many peers say so much, and nothing more."""
        for number in range(COUNT):
            source = (ours(f"9.{1 + number}"), 0)
            peer = peers.enter_context(socket.create_connection((POD, 15008), PATIENCE_S, source))
            peer.sendall(words)
        self._until(lambda: self.plane.inbound.held == COUNT)

    def answered(self) -> None:
        self._until(lambda: len(self.plane.inbound.links) == COUNT)

    def emptied(self) -> None:
        self._until(lambda: self.plane.inbound.held == 0)

    def _until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, "it never held"
            self._loop.turn(0.005)


@pytest.fixture
def server() -> Iterator[Server]:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library has no mallinfo2(3)")
    libc.mallinfo2.restype = _Mallinfo
    tracemalloc.start()
    made = Server(libc)
    try:
        yield made
    finally:
        made.close()
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("part", "limit_bytes"), [(0.2, CALLER_BYTES), (1.0, ANSWERED_BYTES)], ids=["caller", "answered"]
)
def test_who_is_unproven_takes_so_much_at_most_and_leaves_nothing(
    server: Server, part: float, limit_bytes: int
) -> None:
    words = server.hello[: int(len(server.hello) * part)]
    taken = []
    # The first round makes what is made once: tables of that size, OpenSSL's own, the allocator's.
    for _ in range(2):
        before = server.allocated()
        with ExitStack() as peers:
            server.call(peers, words)
            if part == 1.0:
                server.answered()
            taken.append((server.allocated() - before) / COUNT)
        server.emptied()
        left = (server.allocated() - before) / COUNT
    assert 0 < taken[-1] <= limit_bytes, taken
    assert left <= LEFT_BYTES, f"{left:.0f} bytes of each are left"
