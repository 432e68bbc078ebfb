"""Windows and frames of the configuration, as they show on the wire and in memory, at both ends of a connection."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from agent.wire.h2_tunnel import H2Tunnels
from tests.support.two_nodes import SERVER, World, exchange

FIRST = 256 << 10
STREAM, CONNECTION, FRAME = 70_000, 90_000, 20_000
SMALL = {
    "stream_window_bytes": str(STREAM),
    "connection_window_bytes": str(CONNECTION),
    "frame_bytes": str(FRAME),
}
BULK = b"0123456789abcdef" * 65536  # 1 MiB


def codecs(world: World) -> tuple[H2Tunnels, H2Tunnels]:
    """Of the one connection between the nodes: (client's, server's)."""
    ((_, link),) = world.here.pool.links
    (entry,) = world.there.inbound.links
    return link._codec, entry.link._codec


def connected(world: World) -> socket.socket:
    app = world.connect()
    app.sendall(b"x")
    assert app.recv(1) == b"x"
    return app


@pytest.mark.parametrize(
    ("world", "stream", "connection", "frame"),
    [
        ({}, FIRST, 16 << 20, 1 << 20),
        ({"stream_window_bytes": str(STREAM)}, STREAM, 16 << 20, 1 << 20),
        ({"connection_window_bytes": str(5 << 20)}, FIRST, 5 << 20, 1 << 20),
        ({"frame_bytes": str(FRAME)}, FIRST, 16 << 20, FRAME),
    ],
    ids=["defaults", "stream", "connection", "frame"],
    indirect=["world"],
)
def test_each_is_what_the_peer_sees(world: World, stream: int, connection: int, frame: int) -> None:
    app = connected(world)
    for codec in codecs(world):
        assert codec.peer_window == stream
        assert codec.send_window == connection - 1, "one byte was sent"
        assert codec.peer_frame_bytes == frame
    app.close()


@pytest.mark.parametrize("world", [SMALL], indirect=True)
def test_bulk_passes_in_frames_the_peer_accepts_and_credit_keeps_coming(world: World) -> None:
    """A frame above what was announced, or a window that is not opened again, would end it or stop it."""
    app = connected(world)
    writer = threading.Thread(target=app.sendall, args=(BULK,))
    writer.start()
    got = bytearray()
    while len(got) < len(BULK):
        got += app.recv(1 << 18)
    writer.join()
    assert got == BULK
    for codec in codecs(world):
        assert not codec.failed and 0 <= codec.send_window <= CONNECTION
    app.close()


@pytest.mark.parametrize("world", [SMALL], indirect=True)
def test_a_slow_reader_holds_no_more_than_its_window(world: World) -> None:
    with socket.create_server((SERVER, 8081)) as lazy:
        app = world.connect(f"{SERVER}:8081")
        served, _ = lazy.accept()
        app.setblocking(False)
        ((_, link),) = world.here.pool.links

        def push() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    app.send(BULK)

        (life,) = [live.owner for live in world.there.registry]
        world.driver.until(lambda: life._relay is not None)  # type: ignore[attr-defined]
        relay = life._relay  # type: ignore[attr-defined]
        world.driver.until(lambda: push() or bool(relay._backlog and link.waiters))
        assert len(relay._backlog) <= STREAM
        served.close()
        app.close()
    assert exchange(world.connect()) == b"hello", "the connection's window is whole again"
