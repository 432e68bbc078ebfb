"""Accept queues as the kernel has them."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from agent.supervisor.queues import Queues, waiting


def test_a_queue_stalls_when_nobody_takes_from_it() -> None:
    with ExitStack() as closing:
        one, two = (closing.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        queues = Queues({0: {"a": one}, 1: {"a": two}}, stall_s=1.0)
        assert queues.are_empty and queues.stalled(5.0) == []
        for _ in range(3):
            closing.enter_context(socket.create_connection(two.getsockname()))
        assert waiting(two) == 3 and not queues.are_empty
        assert queues.stalled(0.6) == [] and queues.stalled(0.6) == [1]
        assert queues.stalled(0.6) == [], "it begins anew"
        for _ in range(3):
            two.accept()[0].close()
        assert queues.stalled(0.6) == [] and queues.are_empty


class Rings:
    """Whose ring is empty, as a test says."""

    def __init__(self) -> None:
        self.waiting: set[int] = set()

    def fd(self, owner: int) -> int:
        raise NotImplementedError

    def is_empty(self, owner: int) -> bool:
        return owner not in self.waiting

    def renew(self, owner: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_a_queue_stalls_when_nobody_takes_from_its_ring() -> None:
    """The listeners of a worker that hangs may have nothing to accept: what would come waits in the ring."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        queues = Queues({0: {"a": one}, 1: {"a": two}}, stall_s=1.0)
        queues.rings = rings = Rings()
        assert queues.are_empty
        rings.waiting.add(1)
        assert not queues.are_empty
        assert queues.stalled(0.6) == [] and queues.stalled(0.6) == [1]
        assert queues.stalled(0.6) == []
        rings.waiting.clear()
        assert queues.stalled(0.6) == [] and queues.are_empty
