"""Both ends of the data path in one loop of one test: real sockets, real TLS, nobody else's clock.

`Node` runs the loop; `Hbone` joins two links over loopback TCP; `App` is an application's socket.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from agent.identity.credentials import Credentials
from agent.identity.handshake import Session
from agent.model.address import SocketAddress
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.byte_stream import SocketStream
from agent.net.loop import Loop
from agent.net.relay import TunnelRelay
from agent.net.tunnel_link import Tunnel, TunnelLink
from agent.wire.hbone import ConnectHead, connect_head
from tests.support.certs import TestCA, credentials
from tests.support.traffic import take_into

CLIENT_ID = "spiffe://cluster.local/ns/a/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/b/sa/server"
CA = TestCA()
CLIENT = credentials(CA, CLIENT_ID)
SERVER = credentials(CA, SERVER_ID)
HEAD = connect_head("10.0.0.1:80")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one loopback TCP connection, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    for sock in (one, two):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, two


@contextlib.contextmanager
def deaf(host: str, port: int = 0) -> Iterator[SocketAddress]:
    """Where nobody answers a SYN: the accept queue is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield SocketAddress.from_sockname(listener.getsockname())


class Node:
    """A loop whose errors fail the test, and whose sockets are closed with it."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.skew_s = 0.0
        self._stopped_s: float | None = None
        self.loop = Loop(self._now, lambda error, fd: self.errors.append(error))
        self.closing = contextlib.ExitStack()

    def _now(self) -> float:
        return (time.monotonic() if self._stopped_s is None else self._stopped_s) + self.skew_s

    def stop_clock(self) -> None:
        """The loop's time stands still, however slow the machine is."""
        self._stopped_s = time.monotonic()

    def start_clock(self) -> None:
        self._stopped_s = None

    def until(self, condition: Callable[[], object], limit_s: float = 20.0) -> None:
        """Turn the loop until the condition holds."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, "what the test waits for does not happen"
            self.loop.turn(0.01)
            if self.errors:
                raise self.errors[0]

    def settle(self) -> None:
        """Turn until nothing more happens at once."""
        for _ in range(20):
            self.loop.turn(0.002)
        if self.errors:
            raise self.errors[0]

    def keep(self, sock: socket.socket) -> socket.socket:
        self.closing.callback(sock.close)
        return sock


@contextlib.contextmanager
def node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.closing.close()
        made.loop.close()


class ServerSide:
    """Accepts every request (or does what `on_request` says) and remembers what it was told."""

    def __init__(self) -> None:
        self.peers: list[Identity | None] = []
        self.requests: list[tuple[Tunnel, ConnectHead]] = []
        self.ends: list[tuple[Outcome, str]] = []
        self.on_request: Callable[[Tunnel], None] = lambda tunnel: None
        self.refusal: Refusal | None = None

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        self.peers.append(peer)
        if self.refusal is not None:
            raise self.refusal

    def requested(self, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        self.requests.append((tunnel, head))
        self.on_request(tunnel)

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.ends.append((outcome, detail))


class ClientSide:
    def __init__(self) -> None:
        self.peers: list[Identity | None] = []
        self.ends: list[tuple[Outcome, str]] = []
        self.available_calls = 0

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        self.peers.append(peer)

    def available(self, link: TunnelLink) -> None:
        self.available_calls += 1

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.ends.append((outcome, detail))


class Hbone:
    """A client link and a server link over one TCP connection."""

    def __init__(
        self, node: Node, *, client: Credentials = CLIENT, server: Credentials = SERVER, **options: int
    ) -> None:
        self.node = node
        self.client_wire, self.server_wire = tcp_pair()
        node.keep(self.client_wire)
        node.keep(self.server_wire)
        self.client_side, self.server_side = ClientSide(), ServerSide()
        accepted = (server.identity,)
        self.server = TunnelLink.fresh(
            node.loop, SocketStream(node.loop, self.server_wire), Session.server(server), self.server_side
        )
        self.client = TunnelLink.fresh(
            node.loop,
            SocketStream(node.loop, self.client_wire),
            Session.client(client, accepted),
            self.client_side,
            **options,
        )
        self.server.start()
        self.client.start()
        self.answers: list[tuple[Tunnel, int, tuple[tuple[str, str], ...]]] = []
        """Status 0 stands for a tunnel that is gone."""

    def ask(self, head: ConnectHead = HEAD) -> Tunnel:
        return self.client.open(head, self)

    def answered(self, tunnel: Tunnel, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.answers.append((tunnel, status, headers))

    def gone(self, tunnel: Tunnel) -> None:
        self.answers.append((tunnel, 0, ()))

    def tunnel(self) -> tuple[Tunnel, Tunnel]:
        """An accepted tunnel: (client's, server's)."""
        count = len(self.server_side.requests)
        self.server_side.on_request = lambda tunnel: tunnel.accept()
        tunnel = self.ask()
        self.node.until(lambda: any(a[0] is tunnel for a in self.answers))
        return tunnel, self.server_side.requests[count][0]

    def relayed(self) -> Relayed:
        return Relayed(self, *self.tunnel())


R = TypeVar("R")


class Ended(list[R]):
    """The owner of relays: those that have ended."""

    def finished(self, relay: R) -> None:
        self.append(relay)


def read_reset(node: Node, sock: socket.socket) -> bytes:
    """Everything up to the reset that the stream must end with."""
    got = bytearray()
    try:
        node.until(lambda: take_into(sock, got))
    except ConnectionResetError:
        return bytes(got)
    raise AssertionError(f"an orderly end after {len(got)} bytes")


class Applications:
    """The sockets of applications on a node."""

    node: Node

    def read_end(self, sock: socket.socket) -> bytes:
        """Everything up to the end of the stream. ConnectionResetError if it ends so."""
        got = bytearray()
        self.node.until(lambda: take_into(sock, got))
        return bytes(got)

    def read_reset(self, sock: socket.socket) -> bytes:
        """Everything up to the reset that the stream must end with."""
        return read_reset(self.node, sock)


class Relayed(Applications):
    """Application | relay | tunnel | relay | application: `client` and `server` are the applications."""

    def __init__(self, hbone: Hbone, outer: Tunnel, inner: Tunnel) -> None:
        node = hbone.node
        self.node = node
        self.client, near = tcp_pair()
        self.server, far = tcp_pair()
        for sock in (self.client, near, self.server, far):
            node.keep(sock)
        self.done = Ended[TunnelRelay]()
        self.client_relay = TunnelRelay(node.loop, near, outer, self.done)
        self.server_relay = TunnelRelay(node.loop, far, inner, self.done)
        self.client_relay.start()
        self.server_relay.start()

    def read(self, sock: socket.socket, size: int) -> bytes:
        """Exactly `size` bytes from an application's socket."""
        got = bytearray()

        def enough() -> bool:
            take_into(sock, got)
            return len(got) >= size

        self.node.until(enough)
        assert len(got) == size
        return bytes(got)


class RawClient:
    """A TCP client of a server link that says what it likes."""

    def __init__(self, it: Node, **options: float) -> None:
        self.sock, far = tcp_pair()
        it.keep(self.sock)
        it.keep(far)
        self.events = ServerSide()
        self.link = TunnelLink.fresh(
            it.loop, SocketStream(it.loop, far), Session.server(SERVER), self.events, **options
        )
        self.link.start()
