"""The accept queues of the listeners, asked of the kernel: whether connections wait there, and for how long."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Protocol

# struct tcp_info: for a listener, tcpi_unacked (u32 at byte 24) is the length of its accept queue.
ACCEPT_QUEUE = struct.Struct("24xI")

Listeners = Mapping[int, Mapping[str, socket.socket]]
"""By owner and name."""


def waiting(sock: socket.socket) -> int:
    """How many connections wait to be accepted; of datagrams nobody can say, and they wait for nothing else."""
    if sock.type == socket.SOCK_DGRAM:
        return 0
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACCEPT_QUEUE.size)
    (count,) = ACCEPT_QUEUE.unpack(raw)
    return int(count)


class Rings(Protocol):
    """Where the held SYNs of each owner wait for the worker that serves it."""

    def fd(self, owner: int) -> int:
        """For that worker, and no other; the descriptor stays this object's."""

    def is_empty(self, owner: int) -> bool: ...

    def renew(self, owner: int) -> None:
        """Have them come to an empty ring from now on. Raises OSError."""

    def close(self) -> None: ...


class Queues:
    """The queues of every owner; `listeners` may grow. `rings`: None where no SYNs are held."""

    def __init__(self, listeners: Listeners, stall_s: float) -> None:
        self.rings: Rings | None = None
        self._listeners = listeners
        self._stall_s = stall_s
        self._waited_s: dict[int, float] = {}

    @property
    def are_empty(self) -> bool:
        return not any(self._queued(owner) for owner in self._listeners)

    def stalled(self, passed_s: float) -> list[int]:
        """Owners whose queue was not empty at any look for `stall_s`; `passed_s` since the last look."""
        stalled = []
        for owner in self._listeners:
            self._waited_s[owner] = self._waited_s.get(owner, 0.0) + passed_s if self._queued(owner) else 0.0
            if self._waited_s[owner] >= self._stall_s:
                self._waited_s[owner] = 0.0
                stalled.append(owner)
        return stalled

    def _queued(self, owner: int) -> bool:
        if self.rings is not None and not self.rings.is_empty(owner):
            return True
        return any(waiting(sock) for sock in self._listeners[owner].values())
