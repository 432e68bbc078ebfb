"""A pool whose connections are real ones, over sockets of this process; dials, answers and the clock are the test's."""

from __future__ import annotations

import random
import socket

from agent.identity.handshake import Session
from agent.model.address import SocketAddress, parse_ip
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.byte_stream import Crash, SocketStream
from agent.net.dial import Dial, Dialler, DialOwner
from agent.net.loop import READABLE, Loop, Ready
from agent.net.sockets import SideSockets
from agent.net.tunnel import Tunnel, TunnelClientEvents
from agent.net.tunnel_link import TunnelLink
from agent.proxy.pool import Pool
from agent.proxy.pool_key import PoolKey
from agent.proxy.pool_waiter import Waiter
from agent.proxy.tallies import Tallies
from agent.wire.h2_events import Limits
from agent.wire.h2_frames import ErrorCode
from agent.wire.hbone import ConnectHead, connect_head
from tests.support.netpair import CLIENT, SERVER

SOURCE, PEER = CLIENT.identity, SERVER.identity
HEAD = connect_head("10.0.0.2:80")
ANSWER_S = 30.0
CROWDED_S = 0.2
"""So long a window must have been held."""
SILENT_S = 1e9
"""No pings: the clock jumps."""
WINDOW_BYTES = 1 << 16
TURNS = 25
"""Of the loop, until nothing more follows: between unix sockets everything is there at once."""


def key(client: str = "10.0.0.1", target: str = "10.0.0.2:15008") -> PoolKey:
    return PoolKey(SOURCE, (PEER,), SocketAddress.parse(target), parse_ip(client))


class Dialled:
    """A dial that the test completes by hand: nobody has started it."""

    def __init__(self, key: PoolKey, owner: DialOwner, dialler: Dialler) -> None:
        self.owner = owner
        self.dial = Dial(dialler, key.target, None, owner)

    @property
    def is_cancelled(self) -> bool:
        return self.dial._owner is None

    def fail(self, error: OSError) -> None:
        self.owner.failed(key().target, error)


class PeerStream:
    """A socket that is read only as long as the peer looks."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._inner = SocketStream(loop, sock)
        self._on_ready: Ready = lambda mask: None
        self.is_looked_at = True
        self.buffers = self._inner.buffers
        self.send, self.recv = self._inner.send, self._inner.recv
        self.round_trip_s, self.finish, self.cut = (
            self._inner.round_trip_s,
            self._inner.finish,
            self._inner.cut,
        )

    def recv_into(self, buffer: memoryview) -> int:
        if not self.is_looked_at:
            raise BlockingIOError
        return self._inner.recv_into(buffer)

    def watch(self, on_ready: Ready, on_crash: Crash, mask: int) -> None:
        self._on_ready = on_ready
        self._inner.watch(on_ready, on_crash, mask)

    def look(self) -> None:
        self.is_looked_at = True
        self._on_ready(READABLE)


class Connection:
    """One of the pool's, and the peer at its other end, who says nothing before `secure`."""

    def __init__(self, world: World, link: TunnelLink, far: socket.socket) -> None:
        self.link = link
        self._world = world
        self._far = far
        self._tunnels: list[Tunnel] = []
        self._goes_at_once = False

    # -- the peer, as its link tells it

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None:
        if self._goes_at_once:
            link.go_away()

    def requested(self, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        self._tunnels.append(tunnel)

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None: ...

    # -- what the peer does

    def secure(self, limit: int = 100, *, goes_at_once: bool = False) -> None:
        """The handshake; SETTINGS allow so many tunnels, and perhaps GOAWAY comes with them."""
        self._goes_at_once = goes_at_once
        limits = Limits(
            peer_streams=limit,
            stream_window_bytes=WINDOW_BYTES,
            connection_window_bytes=WINDOW_BYTES,
            ping_after_s=SILENT_S,
        )
        self._stream = PeerStream(self._world.loop, self._far)
        self.peer = TunnelLink.fresh(
            self._world.loop, self._stream, Session.server(SERVER), self, limits=limits
        )
        self.peer.start()
        self._world.settle()

    @property
    def asked(self) -> list[Tunnel]:
        """The tunnels that are not answered yet, as the peer has them."""
        return [tunnel for tunnel in self._tunnels if not tunnel.is_gone]

    def answer(self, status: int = 200, *, is_unseen: bool = False) -> None:
        """The oldest; 0: by a reset, which may say that nobody has looked at it."""
        tunnel = self.asked[0]
        self._tunnels.remove(tunnel)
        if status == 200:
            tunnel.accept()
        elif status:
            tunnel.refuse(status)
        else:
            tunnel.reset(ErrorCode.REFUSED_STREAM if is_unseen else ErrorCode.INTERNAL_ERROR)
        self._world.settle()

    def go_away(self) -> None:
        self.peer.go_away()
        self._world.settle()

    def crowd(self, held_bytes: int = WINDOW_BYTES * 3 // 4) -> None:
        """A tunnel has sent so much of what may be sent, and the peer does not look at it."""
        tunnel = self._world.tunnel(self)
        self._stream.is_looked_at = False
        while held_bytes:
            size = self.link.stage.forward(lambda view: len(view), tunnel.stream, held_bytes)
            held_bytes -= size
        self._world.settle()
        self._world.now += CROWDED_S
        assert self.link.is_crowded

    def recover(self) -> None:
        self._stream.look()
        self._world.settle()

    # -- what the pool sees

    @property
    def open_streams(self) -> int:
        return self.link.open_streams

    @property
    def is_usable(self) -> bool:
        return self.link.is_usable

    def abort(self, outcome: Outcome, detail: str) -> None:
        self.link.abort(outcome, detail)
        self._world.settle()


class World:
    """A pool, its connector, and who waits for its tunnels."""

    def __init__(self, streams_limit: int = 100) -> None:
        self.now = 0.0
        self.crashes: list[BaseException] = []
        self.loop = Loop(lambda: self.now, lambda error, fd: self.crashes.append(error))
        self._sockets = SideSockets(None)
        self._dialler = Dialler(self.loop, self._sockets, lambda: random.randrange(40000, 60000), 10.0)
        self._far: list[socket.socket] = []
        self.dials: list[Dialled] = []
        self.links: list[Connection] = []
        self.no_certificate: Refusal | None = None
        self.tallies = Tallies()
        self.pool = Pool(
            self.loop, self, self.tallies, streams_limit=streams_limit, idle_s=300.0, answer_s=ANSWER_S
        )
        self.tunnels: list[Tunnel] = []
        self.refusals: list[Refusal] = []

    def close(self) -> None:
        for connection in self.links:
            connection.link.abort()
            connection._far.close()
        self.settle()
        self.loop.close()
        self._sockets.close()

    def settle(self) -> None:
        """Until nothing more follows."""
        for _ in range(TURNS):
            self.loop.turn(0.0)
        assert not self.crashes, self.crashes

    # -- the connector

    def dial(self, key: PoolKey, owner: DialOwner) -> Dial:
        self.dials.append(Dialled(key, owner, self._dialler))
        return self.dials[-1].dial

    def link(self, key: PoolKey, sock: socket.socket, events: TunnelClientEvents) -> TunnelLink:
        if self.no_certificate is not None:
            sock.close()
            raise self.no_certificate
        session = Session.client(CLIENT, key.accepted)
        limits = Limits(ping_after_s=SILENT_S)
        made = TunnelLink.fresh(self.loop, SocketStream(self.loop, sock), session, events, limits=limits)
        self.links.append(Connection(self, made, self._far.pop()))
        return made

    # -- who waits

    def opened(self, tunnel: Tunnel, headers: object) -> None:
        self.tunnels.append(tunnel)

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def want(self, count: int = 1, **fields: str) -> list[Waiter]:
        waiters = [self.pool.open(key(**fields), HEAD, self) for _ in range(count)]
        self.settle()
        return waiters

    # -- what comes of it

    def dialled(self) -> Connection:
        """The oldest dial connects; the handshake follows."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._far.append(far)
        self.dials.pop(0).owner.connected(near)
        self.settle()
        return self.links[-1]

    def connect(self, limit: int = 100) -> Connection:
        connection = self.dialled()
        connection.secure(limit)
        return connection

    def tunnel(self, connection: Connection) -> Tunnel:
        """One that is open on this connection."""
        while connection.asked:
            connection.answer()
        return next(tunnel for tunnel in self.tunnels if tunnel.link is connection.link)

    def end(self, tunnel: Tunnel) -> None:
        """The pool's user has done with it."""
        self.tunnels.remove(tunnel)
        tunnel.reset()
        self.settle()
