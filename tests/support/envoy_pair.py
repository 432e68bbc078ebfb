"""One end of HBONE is ours, the other the real Envoy: both of them, with applications at either end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

from agent.identity.handshake import Session
from agent.model.address import SocketAddress
from agent.net.accept import Acceptor
from agent.net.byte_stream import SocketStream
from agent.net.relay import TunnelRelay
from agent.net.sockets import open_listener
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.wire.hbone import connect_head
from tests.support import envoy
from tests.support.netpair import (
    CA,
    CLIENT,
    CLIENT_ID,
    SERVER,
    SERVER_ID,
    ClientSide,
    Ended,
    Node,
    ServerSide,
    node,
    tcp_pair,
)

AUTHORITY = "10.77.0.1:8080"


class OurServer:
    """Our accepting end; each tunnel is relayed into a fresh socket pair, whose far end is the application."""

    def __init__(self, it: Node) -> None:
        self.it = it
        self.side = ServerSide()
        self.side.on_request = self.on_request
        self.apps: list[socket.socket] = []
        self.relays: list[TunnelRelay] = []
        self.done = Ended[TunnelRelay]()
        self.links: list[TunnelLink] = []
        listener = open_listener(None, 0, transparent=False, reuse_port=False, address="127.0.0.1")
        self.port = listener.getsockname()[1]
        acceptor = Acceptor(it.loop, listener, self.on_accept)
        acceptor.start()
        it.closing.callback(acceptor.close)

    def on_accept(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        assert peer.ip == local.ip == IPv4Address("127.0.0.1")
        self.it.keep(sock)
        self.links.append(
            TunnelLink.fresh(
                self.it.loop, SocketStream(self.it.loop, sock), Session.server(SERVER), self.side
            )
        )
        self.links[-1].start()

    def on_request(self, tunnel: Tunnel) -> None:
        app, near = tcp_pair()
        self.apps.append(self.it.keep(app))
        self.it.keep(near)
        tunnel.accept([("baggage", "k8s.cluster.name=Kubernetes")])
        self.relays.append(TunnelRelay(self.it.loop, near, tunnel, self.done))
        self.relays[-1].start()


@contextlib.contextmanager
def envoy_client() -> Iterator[tuple[Node, OurServer, envoy.Envoy]]:
    """application -> Envoy -> HBONE -> us."""
    with node() as it:
        server = OurServer(it)
        with envoy.run(
            envoy.ORIGINATE, CA, CA.issue(CLIENT_ID), SERVER_ID, target=server.port, authority=AUTHORITY
        ) as peer:
            yield it, server, peer


def dial(it: Node, address: tuple[str, int]) -> socket.socket:
    sock = it.keep(socket.create_connection(address))
    sock.setblocking(False)
    return sock


class OurClient:
    """Our dialling end towards Envoy; each tunnel is relayed from a fresh socket pair."""

    def __init__(self, it: Node, address: tuple[str, int]) -> None:
        self.it = it
        self.side = ClientSide()
        self.done = Ended[TunnelRelay]()
        self.statuses: list[int] = []
        self.link = TunnelLink.fresh(
            it.loop,
            SocketStream(it.loop, dial(it, address)),
            Session.client(CLIENT, (SERVER.identity,)),
            self.side,
        )
        self.link.start()
        self._near: dict[Tunnel, socket.socket] = {}

    def connect(self) -> socket.socket:
        """An application's socket, connected through a tunnel once Envoy has answered."""
        app, near = tcp_pair()
        self.it.keep(app)
        self._near[self.link.open(connect_head(AUTHORITY, [("baggage", "k=v")]), self)] = self.it.keep(near)
        return app

    def answered(self, tunnel: Tunnel, status: int, headers: object) -> None:
        self.statuses.append(status)
        if status == 200:
            TunnelRelay(self.it.loop, self._near.pop(tunnel), tunnel, self.done).start()

    def gone(self, tunnel: Tunnel) -> None:
        self.statuses.append(0)


@contextlib.contextmanager
def envoy_server(**values: object) -> Iterator[tuple[Node, OurClient, socket.socket, envoy.Envoy]]:
    """us -> HBONE -> Envoy -> application (its listener)."""
    with node() as it, socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]
        with envoy.run(envoy.TERMINATE, CA, CA.issue(SERVER_ID), CLIENT_ID, target=port, **values) as peer:
            yield it, OurClient(it, peer.listen), listener, peer


def accept(it: Node, listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    found: list[socket.socket] = []

    def one() -> bool:
        with contextlib.suppress(BlockingIOError):
            found.append(listener.accept()[0])
        return bool(found)

    it.until(one)
    found[0].setblocking(False)
    return it.keep(found[0])
