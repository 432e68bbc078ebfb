"""Real sockets, most of TCP, of any four-tuple in a namespace where every address is local.

Both ends of a connection live there, joined by a real handshake over lo; a program asks for one of them by the
tuple it needs. Closing resets, so that nothing of one row is left for the next.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from redirect import netns
from tests.packets.world import Address, Socket

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
SO_COOKIE = 57
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def make_every_address_local() -> None:
    """So that connections between any two addresses can be opened over lo: `ip rule add lookup 100 pref 5`"""
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        for family in (socket.AF_INET, socket.AF_INET6):
            scope = {"scope": 254} if family == socket.AF_INET else {}
            ip.route("replace", family=family, type="local", dst="default", oif=1, table=100, **scope)
            ip.rule("add", family=family, table=100, priority=5)


def _transparent(address: Address, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket bound to an address that need not be configured anywhere."""
    is_v6 = ipaddress.ip_address(address[0]).version == 6
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, kind)
    try:
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def listener(address: Address = ("::", 0)) -> Iterator[socket.socket]:
    with _transparent(address) as sock:
        sock.listen()
        yield sock


def cookie(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


@contextmanager
def opened(spec: Socket, path: Path) -> Iterator[None]:
    """The socket of a row, in the namespace at `path`."""
    with ExitStack() as closing:
        with netns.entered(path):
            if spec.state == "listening":
                closing.enter_context(listener(spec.local))
            elif spec.state == "datagrams":
                sock = closing.enter_context(_transparent(spec.local, socket.SOCK_DGRAM))
                if spec.far is not None:
                    sock.connect(spec.far)
            else:
                _connection(spec, closing)
        yield


def _connection(spec: Socket, closing: ExitStack) -> None:
    """The listener goes at once unless the connection is only half made: it would be found in its place."""
    assert spec.far is not None
    server = closing.enter_context(_transparent(spec.local))
    if spec.state == "syn_recv":
        # The request socket stays until data comes.
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
    server.listen()
    client = closing.enter_context(_transparent(spec.far))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.connect(spec.local)
    if spec.state == "syn_recv":
        return
    accepted, _ = server.accept()
    server.close()
    if spec.state == "time_wait":
        accepted.close()  # closes first, so its tuple is the one that waits
        assert client.recv(1) == b""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        client.close()
        return
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    closing.enter_context(accepted)
