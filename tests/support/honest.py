"""Connects of pods that are answered by their destination, as tests make and see them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redirect.netns import entered
from tests.support.labmesh import PORT, World, running

CLOSED = 9


@contextmanager
def honest_mesh(directory: Path) -> Iterator[World]:
    """A mesh whose agents hold the connects of all pods."""
    flags = {"honest-connect": "all", "workers": "2", "connect-timeout-s": "4"}
    with running("h", directory, flags=flags) as made:
        yield made


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    """Processes that do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Connecting:
    """A connect() in a thread of its own. `answer` is its error number, 0 for none."""

    def __init__(self, world: World, client: str, host: str, port: int = PORT, source_port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with entered(world.place(client).netns):
            self.sock = socket.socket(family)
        if source_port:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.bind((world.address(client, 6 if ":" in host else 4), source_port))
        self.sock.settimeout(30)
        self.answer: int | None = None
        self._thread = threading.Thread(target=self._run, args=((host, port),))
        self._thread.start()

    def _run(self, target: tuple[str, int]) -> None:
        try:
            self.answer = self.sock.connect_ex(target)
        except TimeoutError:
            self.answer = errno.ETIMEDOUT

    def __enter__(self) -> Connecting:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self.sock.close()

    def ended(self) -> int:
        self._thread.join(40)
        assert self.answer is not None, "it goes on"
        return self.answer


def fates(world: World, fate: str, node: str = "node-a", direction: str = "outbound") -> float:
    return world.metric(node, "ztun_held_syns_ended_total", direction=direction, fate=fate)


def waiting(world: World, node: str = "node-a", direction: str = "outbound") -> float:
    return world.metric(node, "ztun_held_syns", direction=direction)


def held(world: World, node: str = "node-a", program: str = "from_pod") -> int:
    """SYNs that the kernel has held there, those that came again too."""
    return world.counters(node).get((program, "SYN_HELD"), 0)
