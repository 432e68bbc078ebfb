"""Connections of a lab with both of their ends in the test's hands, and clients that ask once and never again."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redirect.netns import entered
from tests.support.labmesh import World
from tests.support.labtraffic import PATIENCE_S

RULES = "table inet mute { chain out { type filter hook output priority 0; tcp flags & (syn | ack) == syn drop; }; }"


@contextmanager
def both_ends(world: World, client: str, server: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of a connection from pod to pod."""
    with entered(world.pod(server).netns):
        listener = socket.create_server(("0.0.0.0", 0))
    port = listener.getsockname()[1]
    with listener, world.dial(client, world.address(server), port) as near:
        listener.settimeout(PATIENCE_S)
        far, _ = listener.accept()
        with far:
            far.settimeout(PATIENCE_S)
            yield near, far


def is_told_reset(sock: socket.socket) -> bool:
    """Waits for it. An end would say that all is there."""
    try:
        sock.recv(1)
    except ConnectionResetError:
        return True
    return False


@contextmanager
def without_more_syns(*namespaces: Path) -> Iterator[None]:
    """No connection is asked for there meanwhile: who waits for an answer has asked for the last time."""
    with ExitStack() as stack:
        for netns in namespaces:
            _nft(netns, RULES)
            stack.callback(_nft, netns, "delete table inet mute")
        yield


def _nft(netns: Path, command: str) -> None:
    with entered(netns):
        subprocess.run(["nft", command], check=True)
