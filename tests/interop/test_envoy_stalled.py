"""Streams that nobody reads, with the real Envoy at the other end: others of the pair are served."""

from __future__ import annotations

import contextlib
import socket

import pytest

from agent.identity.handshake import Session
from agent.model.address import SocketAddress, parse_ip
from agent.net.byte_stream import SocketStream
from agent.net.dial import Dial, Dialler
from agent.net.relay import TunnelRelay
from agent.net.sockets import SideSockets
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.proxy.pool import Pool
from agent.proxy.pool_key import Headers, PoolKey
from agent.proxy.pooled_link import PooledLink
from agent.proxy.tallies import Tallies
from agent.wire.h2_events import MIB
from agent.wire.hbone import connect_head
from tests.support.envoy_pair import AUTHORITY, OurServer, accept, dial, envoy_client, envoy_server
from tests.support.netpair import CLIENT, SERVER, Ended, Node, tcp_pair
from tests.support.traffic import Flow

pytestmark = pytest.mark.envoy


CHUNK = bytes(MIB // 4)


def stall(it: Node, sources: list[socket.socket]) -> None:
    """Push into all of them, until nothing moves any more: nobody reads."""
    seen: list[int] = [0]

    def push() -> int:
        sent = 0
        for source in sources:
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += source.send(CHUNK)
        return sent

    def stands() -> bool:
        it.settle()
        seen.append(seen[-1] + push())
        return seen[-10:] == seen[-1:] * 10

    it.until(stands, 60)


def exchange(it: Node, client: socket.socket, server: socket.socket) -> None:
    """2 MB each way at once."""
    up, down = Flow(client, server, 2 * MIB, 2, ends=False), Flow(server, client, 2 * MIB, 3, ends=False)
    it.until(lambda: (up.step() or len(up.got) == 2 * MIB) & (down.step() or len(down.got) == 2 * MIB), 30)
    assert up.got == up.data and down.got == down.data


def opened(it: Node, ours: OurServer, address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """A connection through Envoy to us: both applications."""
    count = len(ours.apps)
    client = dial(it, address)
    it.until(lambda: len(ours.apps) > count)
    return client, ours.apps[-1]


def test_stalled_uploads_from_envoy_stop_no_other() -> None:
    with envoy_client() as (it, ours, peer):
        older = opened(it, ours, peer.listen)
        stall(it, [opened(it, ours, peer.listen)[0] for _ in range(12)])
        exchange(it, *older)
        exchange(it, *opened(it, ours, peer.listen))
        assert len(ours.links) == 1


def test_three_downloads_that_envoys_clients_do_not_read_stop_no_other() -> None:
    """Its windows are its own, 16 MiB for a stream and 24 MiB in all: without a share left to others they would."""
    with envoy_client() as (it, ours, peer):
        older = opened(it, ours, peer.listen)
        stall(it, [opened(it, ours, peer.listen)[1] for _ in range(3)])
        exchange(it, *older)
        exchange(it, *opened(it, ours, peer.listen))
        assert len(ours.links) == 1


def test_stalled_downloads_from_envoy_stop_no_other() -> None:
    with envoy_server() as (it, ours, listener, _):

        def pair() -> tuple[socket.socket, socket.socket]:
            return ours.connect(), accept(it, listener)

        older = pair()
        stall(it, [pair()[1] for _ in range(12)])
        exchange(it, *older)
        exchange(it, *pair())


class Pooled:
    """Our dialling end with its pool, as a node has it: connections to Envoy are made when they are needed."""

    def __init__(self, it: Node, address: tuple[str, int]) -> None:
        self.it = it
        self.address = address
        self._dialler = Dialler(it.loop, SideSockets(None), lambda: 0, 10.0)
        self.pool = Pool(it.loop, self, Tallies(), streams_limit=100, idle_s=300.0, answer_s=30.0)
        target = SocketAddress.parse(f"{address[0]}:{address[1]}")
        self.key = PoolKey(CLIENT.identity, (SERVER.identity,), target, parse_ip("10.0.0.1"))
        self.done = Ended[TunnelRelay]()

    def dial(self, key: PoolKey, owner: PooledLink) -> Dial:
        self.it.loop.soon(lambda: owner.connected(dial(self.it, self.address)))
        return Dial(self._dialler, key.target, None, owner)  # which nobody starts

    def link(self, key: PoolKey, sock: socket.socket, events: PooledLink) -> TunnelLink:
        return TunnelLink.fresh(
            self.it.loop, SocketStream(self.it.loop, sock), Session.client(CLIENT, key.accepted), events
        )

    def connect(self, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
        """An application's socket and, through Envoy, the server's."""
        app, near = tcp_pair()
        self.it.keep(app)
        self.pool.open(self.key, connect_head(AUTHORITY), Joined(self, self.it.keep(near)))
        return app, accept(self.it, listener)


class Joined:
    """Who waits for a tunnel, and has it relayed."""

    def __init__(self, pooled: Pooled, near: socket.socket) -> None:
        self.pooled = pooled
        self.near = near

    def opened(self, tunnel: Tunnel, headers: Headers) -> None:
        TunnelRelay(self.pooled.it.loop, self.near, tunnel, self.pooled.done).start()

    def refused(self, refusal: Exception) -> None:
        raise refusal


@pytest.mark.parametrize("count", [12, 40])
def test_stalled_uploads_to_envoy_stop_no_newer_one(count: int) -> None:
    """Its windows are its own, so a further connection carries what comes later, and none when nobody stalls."""
    with envoy_server() as (it, ours, listener, peer):
        ours.link.abort()
        pooled = Pooled(it, peer.listen)
        pairs = [pooled.connect(listener) for _ in range(count)]
        assert len(pooled.pool.links) == 1
        stall(it, [client for client, _ in pairs])
        it.until(lambda: pooled.pool.links[0][1].is_crowded)
        for _ in range(3):
            exchange(it, *pooled.connect(listener))
        assert len(pooled.pool.links) == 2
