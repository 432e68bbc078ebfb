"""Stands between the agents and the control plane, on TCP: passes, slows, cuts, swallows or spoils what they say.

Threads of the main program; sockets are made in the namespace of the node that has the control plane.
"""

from __future__ import annotations

import random
import select
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from redirect.netns import entered

CHUNK_BYTES = 1 << 16
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Manner:
    """How it behaves. `delay_s`: for each piece; `lives_s`: a connection is cut after that long; `is_silent`: nothing
    is passed on; `spoils`: the share of pieces in which a bit is changed; `refuses`: nobody is taken in.
    """

    delay_s: float = 0.0
    lives_s: float = float("inf")
    is_silent: bool = False
    spoils: float = 0.0
    refuses: bool = False


HONEST = Manner()


class Relay:
    """Listens at `address`. `leads_to`: where it passes on to; `become` changes how, and cuts what there is."""

    def __init__(self, netns: Path, address: tuple[str, int], leads_to: tuple[str, int]) -> None:
        self._netns = netns
        with entered(netns):
            self._listener = socket.create_server(address, backlog=64)
        self._listener.settimeout(LOOK_S)
        self.leads_to = leads_to
        self.manner = HONEST
        self._chances = random.Random(0)
        self._is_over = False
        self._epoch = 0
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def become(self, manner: Manner, *, leads_to: tuple[str, int] | None = None, seed: int = 0) -> None:
        self.manner, self._chances = manner, random.Random(seed)
        if leads_to is not None:
            self.leads_to = leads_to
        self._epoch += 1  # ends every conversation

    def close(self) -> None:
        self._is_over = True
        self._epoch += 1
        self._thread.join()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._is_over:
            try:
                taken, _ = self._listener.accept()
            except TimeoutError:
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                continue
            if self.manner.refuses:
                taken.close()
                continue
            thread = threading.Thread(target=self._converse, args=(taken, self._epoch), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _converse(self, near: socket.socket, epoch: int) -> None:
        manner, lived_s = self.manner, 0.0
        with near, entered(self._netns):
            try:
                far = socket.create_connection(self.leads_to, 5)
            except OSError:
                return  # as a control plane that is not there
            with far, suppress(OSError):
                near.settimeout(5)
                far.settimeout(5)
                others = {near: far, far: near}
                while epoch == self._epoch and lived_s < manner.lives_s:
                    readable, _, _ = select.select(list(others), [], [], LOOK_S)
                    lived_s += 0 if readable else LOOK_S
                    for source in readable:
                        data = source.recv(CHUNK_BYTES)
                        if not data:
                            return
                        if manner.delay_s:
                            threading.Event().wait(manner.delay_s)
                            lived_s += manner.delay_s
                        if not manner.is_silent:
                            others[source].sendall(self._passed_on(manner, data))

    def _passed_on(self, manner: Manner, data: bytes) -> bytes:
        if self._chances.random() >= manner.spoils:
            return data
        spoilt = bytearray(data)
        spoilt[self._chances.randrange(len(spoilt))] ^= 1 << self._chances.randrange(8)
        return bytes(spoilt)
