"""The ends of `dns_service` that pods see: datagrams, and connections to port 53 that were captured."""

from __future__ import annotations

import socket
from functools import partial

from agent.dns.framing import framed, take_message
from agent.dns.records import HEADER_BYTES
from agent.model.address import IP, SocketAddress, SockName
from agent.net.datagrams import DatagramDoor
from agent.net.farewell import Farewell, close
from agent.net.loop import BROKEN, Loop, Timer
from agent.proxy.dns_service import DnsService

IDLE_S = 5.0
"""A connection on which no query comes for so long is closed."""
MOST_CONNECTIONS = 256
READ_BYTES = 1 << 16


class UdpClients:
    """Answers what comes by one socket, which belongs to it."""

    def __init__(self, loop: Loop, sock: socket.socket, service: DnsService) -> None:
        self._service = service
        self.door = DatagramDoor(loop, sock, self._came, self._lost)

    def _came(self, query: bytes, client: IP, peer: SockName, server: IP) -> None:
        # The answer may be late: it needs to know then to whom it goes, and in whose name.
        reply = partial(self._reply, peer, server)
        answer = self._service.take(client, server, query, reply, over_tcp=False)
        if answer is not None:
            self._reply(peer, server, answer)

    def _lost(self, count: int) -> None:
        self._service.figures.lost += count

    def _reply(self, peer: SockName, server: IP, answer: bytes) -> None:
        if not self.door.answer(answer, peer, server):
            self._service.figures.unsent += 1


class TcpClients:
    """Connections of pods to their name servers."""

    def __init__(self, loop: Loop, service: DnsService) -> None:
        self.loop, self.service = loop, service
        self.open: set[TcpClient] = set()

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        if len(self.open) >= MOST_CONNECTIONS:
            close(sock, reset=True)
            return
        client = TcpClient(self, sock, peer.ip, local.ip)
        self.open.add(client)
        client.start()


class TcpClient:
    """One connection: a query at a time, each behind its length (RFC 1035, 4.2.2); the next one waits in its buffer."""

    __slots__ = (
        "_all",
        "_arrived",
        "_client",
        "_is_asking",
        "_is_heard_out",
        "_server",
        "_sock",
        "_timer",
        "_unsent",
    )

    def __init__(self, all_: TcpClients, sock: socket.socket, client: IP, server: IP) -> None:
        self._all = all_
        self._sock = sock
        self._client, self._server = client, server
        self._arrived = bytearray()
        self._unsent = bytearray()
        self._is_asking = False
        self._is_heard_out = False
        self._timer: Timer | None = None

    def start(self) -> None:
        self._all.loop.watch(self._sock.fileno(), self._on_ready, self._on_crash)
        self._wait()
        self._go_on()

    def _wait(self) -> None:
        self._stop_timer()
        self._timer = self._all.loop.later(IDLE_S, self._end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_ready(self, mask: int) -> None:
        if mask & BROKEN:
            self._cut()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Whatever can be done now: send, then read, and take the next query when the last is answered."""
        if self._sock.fileno() < 0:
            return
        try:
            while True:
                while self._unsent:
                    del self._unsent[: self._sock.send(self._unsent)]
                if self._is_asking or self._take_query():
                    if self._unsent:
                        continue
                    return
                if self._is_heard_out:
                    self._end()
                    return
                data = self._sock.recv(READ_BYTES)
                self._is_heard_out = not data
                self._arrived += data
        except BlockingIOError:
            return
        except OSError:
            self._cut()

    def _take_query(self) -> bool:
        """Whether a whole query was there; it is asked."""
        query = take_message(self._arrived)
        if query is None:
            return False
        self._stop_timer()
        self._is_asking = True
        answer = self._all.service.take(self._client, self._server, query, self._late, over_tcp=True)
        if answer is not None:
            self._answered(answer)
        elif len(query) < HEADER_BYTES:
            raise ConnectionAbortedError("what came is no DNS")
        return True

    def _late(self, answer: bytes) -> None:
        if self._sock.fileno() >= 0:
            self._answered(answer)
            self._go_on()

    def _answered(self, answer: bytes) -> None:
        self._is_asking = False
        self._unsent += framed(answer)
        self._wait()

    def _on_crash(self, error: BaseException) -> None:
        self._cut()

    def _end(self) -> None:
        self._let_go()
        Farewell(self._all.loop, self._sock, self._unsent, is_heard_out=self._is_heard_out).start()

    def _cut(self) -> None:
        self._let_go()
        self._all.loop.leave(self._sock.fileno())
        close(self._sock, reset=True)

    def _let_go(self) -> None:
        self._stop_timer()
        self._all.open.discard(self)
