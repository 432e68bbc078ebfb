"""Connections in a lab that nobody reads, and others that must go on all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from redirect.netns import entered
from tests.support.labmesh import SILENCE_S, World
from tests.support.labtraffic import PATIENCE_S, until

STALLED_PORT, ECHO_PORT = 7301, 7302
ECHO_BYTES = 2_000_000
CHUNK = bytes(1 << 18)


class Stalled:
    """Connections from a client pod to a server pod into which one end pushes all it can. Nobody reads."""

    def __init__(self, world: World, client: str, server: str) -> None:
        self._world, self._client, self._server = world, client, server
        self._held = contextlib.ExitStack()
        with entered(world.pod(server).netns):
            self._listener = self._held.enter_context(socket.create_server(("0.0.0.0", STALLED_PORT)))
        self._listener.settimeout(PATIENCE_S)

    def __enter__(self) -> Stalled:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def open(self, direction: str, count: int) -> None:
        """`down`: the server sends and the client does not read; `up`: the other way round."""
        sources = []
        for _ in range(count):
            near = self._held.enter_context(
                self._world.dial(self._client, self._world.address(self._server), STALLED_PORT)
            )
            far = self._held.enter_context(self._listener.accept()[0])
            sources.append(far if direction == "down" else near)
        for source in sources:
            source.setblocking(False)
        moved_at_s = [time.monotonic()]

        def stands() -> bool:
            for source in sources:
                with contextlib.suppress(BlockingIOError):
                    while source.send(CHUNK):
                        moved_at_s[0] = time.monotonic()
            return time.monotonic() - moved_at_s[0] > SILENCE_S

        until(stands, "nothing moves any more", 60)


def echoes(sock: socket.socket) -> None:
    """4 bytes there and back, then 2 MB."""
    sock.settimeout(PATIENCE_S)
    for message in (b"ping", bytes(range(250)) * (ECHO_BYTES // 250)):
        sender = threading.Thread(target=sock.sendall, args=(message,), daemon=True)
        sender.start()
        got = bytearray()
        while len(got) < len(message):
            piece = sock.recv(1 << 18)
            assert piece, "the connection ended in the middle"
            got += piece
        sender.join()
        assert got == message
