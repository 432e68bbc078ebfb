"""Connections that move from one data plane to another in one process, as they do between two workers.

What crosses is bytes and duplicates of descriptors: nothing of the giver is reachable for the taker.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator

from agent.model.unit import decode, encode
from agent.net.dial import Dial
from agent.proxy.moving import Movable, Thawed, immovable, movables, thaw
from tests.support.datapath import DataPath
from tests.support.two_nodes import CLIENT, World


def nothing() -> None:
    """Happens between the two."""


def successor(world: World, of: DataPath, **options: str) -> DataPath:
    """A second worker for the pods of another one, which knows what that knows."""

    def build() -> DataPath:
        made = DataPath(world.driver.loop, world.ca, **options)
        made.know(world.client, world.server, world.web)
        made.add_pod(world.client if of is world.here else world.server, listening=False)
        world.planes.append(made)
        return made

    made = world.driver.call(build)
    assert isinstance(made, DataPath)
    return made


class Handing:
    """One unit on its way: frozen by the giver, built by the taker."""

    def __init__(self, taker: DataPath, movable: Movable) -> None:
        self.movable = movable
        unit, fds = movable.freeze()
        self.kind = unit.kind
        self.wire = encode(unit)
        self.thawed: Thawed = thaw(taker, decode(self.wire), [os.dup(fd) for fd in fds])

    def go(self) -> None:
        """The giver lets go, and the taker starts."""
        self.movable.let_go()
        self.thawed.start()

    def no(self) -> None:
        """The taker is told to drop it, and the giver goes on."""
        self.thawed.drop()
        self.movable.take_back()


def move(
    world: World,
    giver: DataPath,
    taker: DataPath,
    meanwhile: Callable[[], object] = nothing,
    end: Callable[[Handing], None] = Handing.go,
) -> list[str]:
    """Move all there is; the kinds of what has moved. `meanwhile` happens between the freezing and the start."""

    def work() -> list[str]:
        handed = [Handing(taker, each) for each in tuple(movables(giver))]
        meanwhile()
        for each in handed:
            end(each)
        return [each.kind for each in handed]

    kinds = world.driver.call(work)
    assert isinstance(kinds, list)
    return kinds


def left(world: World, giver: DataPath) -> list[str]:
    """What stays, in words."""
    found = world.driver.call(lambda: [str(each) for each in immovable(giver)])
    assert isinstance(found, list)
    return found


def counts(*planes: DataPath) -> tuple[int, int, int, int, int]:
    """Opened, closed, failed, received and sent bytes, of all together; in the loop's thread."""
    sums = [0] * 5
    for plane in planes:
        plane.reporter.count_bytes()
        for _, values in plane.metrics.snapshot()["tcp"]:
            sums = [a + b for a, b in zip(sums, values, strict=True)]
    return sums[0], sums[1], sums[2], sums[3], sums[4]


def sockets_open(*planes: DataPath) -> int:
    return sum(sum(plane.metrics.snapshot()["open"].values()) for plane in planes)


def field(line: str, name: str) -> str:
    """A field of a line of the access log."""
    found = re.search(rf'{name}="?([^" ]*)', line)
    assert found, (name, line)
    return found[1]


def dialling(plane: DataPath) -> int:
    return sum(isinstance(getattr(live.owner, "attempt", None), Dial) for live in plane.registry)


@contextlib.contextmanager
def filled(host: str, port: int) -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """Where nobody answers a SYN, until room is made: the listener's queue is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server((host, port), backlog=0))
        listener.settimeout(30)
        # One is what fits. Another one would come again together with whoever the test asks for: a queue of no length
        # answers by SYN cookies, and of two whose answers cross the second is forgotten until it sends something.
        held.enter_context(socket.create_connection((host, port)))

        def make_room() -> None:
            listener.accept()[0].close()

        yield listener, make_room


def accepted_from(listener: socket.socket, client: str = CLIENT) -> socket.socket:
    """The first connection that comes from there."""
    while True:
        sock, peer = listener.accept()
        if peer[0] == client:
            return sock
        sock.close()
