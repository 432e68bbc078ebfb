"""Clients that use one source port again and again: nothing of the mesh keeps it from them."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from redirect.netns import entered
from tests.support.labmesh import PORT, World
from tests.support.labtraffic import PATIENCE_S, until

pytestmark = pytest.mark.kernel

FAREWELL_PORT = 7070
TIMES = 6
WAYS = {
    "between nodes": ("client-a", "server-b"),
    "on one node": ("client-a", "server-a"),
    "plaintext in": ("outsider-b", "server-a"),
    "plaintext in, on one node": ("outsider-a", "server-a"),
    "to the world": ("client-a", "outsider-b"),
    "past the mesh": ("outsider-a", "outsider-b"),
}
PORTS = count(41000)


@pytest.fixture(scope="module")
def ending_first(world: World) -> Iterator[World]:
    """Servers on FAREWELL_PORT that say a word and end their direction before the client does."""
    listeners = []
    for pod in ("server-a", "server-b", "outsider-b"):
        with entered(world.place(pod).netns):
            listener = socket.create_server(
                ("::", FAREWELL_PORT), family=socket.AF_INET6, dualstack_ipv6=True
            )
        listeners.append(listener)
        threading.Thread(target=end_first, args=(listener,), daemon=True).start()
    yield world
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def end_first(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"bye\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(100):
                pass


def dial(world: World, client: str, host: str, port: int, source_port: int) -> socket.socket:
    """As a program with a port of its own does it. Raises OSError."""
    with entered(world.place(client).netns):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(PATIENCE_S)
        sock.bind(("", source_port))
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def read_to_the_end(sock: socket.socket) -> bytes:
    said = b""
    while more := sock.recv(4096):
        said += more
    return said


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ends_first", ["client", "server"])
def test_a_port_is_free_again_as_soon_as_both_directions_have_ended(
    ending_first: World, way: str, ends_first: str, version: int
) -> None:
    client, server = WAYS[way]
    host, source_port = ending_first.address(server, version), next(PORTS)
    for _ in range(TIMES):
        port = PORT if ends_first == "client" else FAREWELL_PORT
        with dial(ending_first, client, host, port, source_port) as sock:
            if ends_first == "client":
                sock.sendall(b"hello\n")
                sock.shutdown(socket.SHUT_WR)
                assert b"hello" in read_to_the_end(sock)
            else:
                assert read_to_the_end(sock) == b"bye\n"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS)
def test_who_just_closes_has_its_port_back_when_the_servers_end_has_come(
    world: World, way: str, version: int
) -> None:
    """Until then its own kernel keeps it, for an answer that may still come: so it is without a mesh, more shortly."""
    client, server = WAYS[way]
    host, source_port = world.address(server, version), next(PORTS)

    def redialled() -> socket.socket | None:
        try:
            return dial(world, client, host, PORT, source_port)
        except OSError as error:
            assert error.errno == errno.EADDRNOTAVAIL
            return None

    for _ in range(TIMES):
        with until(redialled, "its port back") as sock:
            sock.sendall(b"hello\n")
            assert b"hello" in sock.recv(4096)
