"""The ports from which pods' name servers are asked over UDP, in the pods' names.

A port is a socket that is connected to the server: nobody else's datagrams reach it, and the kernel programs know by it
which answers are not for the pod (`bpf/to_pod.c`). To make one costs four times what a query does, so it is used again,
but whoever forges an answer has to guess as much as if it were not: a pod and its server have several ports at once,
each the kernel's random choice, each query goes by a random one of them with a number that is random too, and a port
is given up after some queries or a second, before it could be looked for (docs/SECURITY.md).
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable
from functools import partial

from agent.dns import records
from agent.dns.records import MalformedMessage
from agent.model.address import IP, SocketAddress
from agent.net.loop import Loop, Timer
from agent.net.sockets import DATAGRAM, SideSockets
from agent.proxy.unanswered import Unanswered

AGAIN_S = 2.0
"""A datagram without an answer is sent once more after this."""
GIVE_UP_S = 4.5
"""Below the five seconds after which resolvers ask anew by themselves, or ask another server."""
MOST_ANSWER_BYTES = 1232
"""Asked for over UDP, at most: fragments of an answer would not be recognised."""
PLACES = 8
"""For ports of a pod to one server, a power of two: each query takes one of them at random."""
QUERIES, LIFE_S = 32, 1.0
"""What a port is used for, at most. It stays open until its last query is answered or given up."""
MOST_OPEN = 256
"""Of those that are in use; beyond that the oldest are given up early."""
READ_BYTES = 1 << 16
BATCH = 32
"""Answers of one port in a row; then others have their turn."""

OnEnd = Callable[[bytes, str], None]
"""The answer, with the number of the exchange; or nothing, and why."""
Place = tuple[IP, SocketAddress, int]


class UdpExchange:
    """A query on its way. `on_end` is called once, from the loop."""

    __slots__ = ("_on_end", "_port", "is_sent_again", "query")

    def __init__(self, query: bytes, on_end: OnEnd) -> None:
        self.query = query
        self._on_end: OnEnd | None = on_end
        self._port: Port | None = None
        self.is_sent_again = False

    def number(self, port: Port, number: bytes) -> None:
        """It goes by this port, with this number."""
        self.query = number + self.query[2:]
        self._port = port

    def cancel(self) -> None:
        """End without a word."""
        self._on_end = None
        self._leave()

    def came(self, answer: bytes) -> None:
        """Something of this number, which may be anybody's guess."""
        try:
            is_answer = records.answers(answer, self.query)
        except MalformedMessage:
            return
        if is_answer:
            self.end(answer, "")

    def end(self, answer: bytes, error: str) -> None:
        on_end, self._on_end = self._on_end, None
        self._leave()
        if on_end is not None:
            on_end(answer, error)

    def unanswered(self, waited_s: float) -> None:
        """Nothing has come for so long: it is lost, or the answer is."""
        port = self._port
        if port is None:
            return
        if self.is_sent_again:
            self.end(b"", f"no answer in {GIVE_UP_S:g} s")
            return
        self.is_sent_again = True
        port.ports.last.add(self)
        try:
            port.send(self.query)
        except OSError as error:
            port.fail(error)

    def _leave(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.left(self)


class Port:
    """One socket, and the exchanges that wait for an answer by it."""

    __slots__ = ("_asked", "_sock", "is_given_up", "place", "ports", "queries", "until_s")

    def __init__(self, ports: AskingPorts, place: Place, sock: socket.socket, until_s: float) -> None:
        self.ports = ports
        self.place = place
        self.until_s = until_s
        self.queries = 0
        self.is_given_up = False
        self._sock = sock
        self._asked: dict[bytes, UdpExchange] = {}
        """By number."""

    def start(self) -> None:
        self.ports.loop.watch(self._sock.fileno(), self._on_ready, self._on_crash, select.EPOLLIN)

    def ask(self, exchange: UdpExchange) -> None:
        """Raises OSError: perhaps of an earlier query, so another port may do."""
        number = self.ports.random_bytes(2)
        while number in self._asked:
            number = self.ports.random_bytes(2)
        exchange.number(self, number)
        self.send(exchange.query)
        self.queries += 1
        self._asked[number] = exchange
        self.ports.first.add(exchange)

    def send(self, query: bytes) -> None:
        """Raises OSError."""
        try:
            self._sock.send(query)
        except BlockingIOError:
            return  # as good as lost on the way: sent again

    def left(self, exchange: UdpExchange) -> None:
        """It waits no more."""
        self._asked.pop(exchange.query[:2], None)
        ports = self.ports
        (ports.last if exchange.is_sent_again else ports.first).remove(exchange)
        if self.is_given_up:
            self.close_if_idle()

    def close_if_idle(self) -> None:
        if not self._asked and self._sock.fileno() >= 0:
            self.ports.loop.leave(self._sock.fileno())
            self._sock.close()

    def _on_ready(self, mask: int) -> None:
        for _ in range(BATCH):
            try:
                data = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.fail(error)
                return
            exchange = self._asked.get(data[:2])
            if exchange is not None:
                exchange.came(data)
            # Nobody waits: what may still be there is noise, and announced again.
            if not self._asked:
                return

    def fail(self, error: BaseException) -> None:
        """Nobody is at the other end: that is the answer to all that was asked by this port."""
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.ports.give_up(self)
        for exchange in self._asked.values():
            # By itself: whoever asks just now is not to be told of others meanwhile.
            self.ports.loop.soon(partial(exchange.end, b"", why))

    def _on_crash(self, error: BaseException) -> None:
        self.fail(RuntimeError(f"a defect in ztun: {error}"))


class AskingPorts:
    """All of them; one per worker. `sockets` are of the net side; `random_bytes` must be such as nobody can guess."""

    def __init__(
        self, loop: Loop, sockets: SideSockets, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.loop = loop
        self.random_bytes = random_bytes
        self.first = Unanswered(loop, AGAIN_S)
        self.last = Unanswered(loop, GIVE_UP_S - AGAIN_S)
        self._sockets = sockets
        self._at: dict[Place, Port] = {}
        self._by_age: deque[Port] = deque()
        """Those that take queries, and some that did; the oldest first, as all live equally long."""
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """Ports that take queries."""
        return len(self._at)

    def ask(self, client: IP, server: SocketAddress, query: bytes, on_end: OnEnd) -> UdpExchange:
        """In this pod's name. The number of the query is another then. Raises OSError, MalformedMessage."""
        exchange = UdpExchange(records.fitted(query, MOST_ANSWER_BYTES), on_end)
        place = client, server, self.random_bytes(1)[0] % PLACES
        port = self._at.get(place)
        if port is not None:
            try:
                port.ask(exchange)
            except OSError as error:
                port.fail(error)
                port = None
        if port is None:
            port = self._open(place)
            try:
                port.ask(exchange)
            except OSError:
                self.give_up(port)
                raise
        if port.queries >= QUERIES:
            self.give_up(port)
        return exchange

    def give_up(self, port: Port) -> None:
        """Nothing more is asked by it."""
        if not port.is_given_up:
            port.is_given_up = True
            del self._at[port.place]
        port.close_if_idle()

    def forget(self) -> None:
        """Pods have changed: an address may be another's next."""
        for port in tuple(self._at.values()):
            self.give_up(port)

    def _open(self, place: Place) -> Port:
        client, server, _ = place
        if len(self._at) >= MOST_OPEN:
            self._give_up_oldest()
        family = socket.AF_INET if server.ip.version == 4 else socket.AF_INET6
        sock = self._sockets.take(family | DATAGRAM)
        try:
            sock.bind((str(client), 0))
            sock.connect((str(server.ip), server.port))
        except OSError:
            sock.close()
            raise
        port = self._at[place] = Port(self, place, sock, self.loop.now() + LIFE_S)
        self._by_age.append(port)
        port.start()
        if self._timer is None:
            self._timer = self.loop.later(LIFE_S, self._on_time)
        return port

    def _give_up_oldest(self) -> None:
        while self._by_age:
            port = self._by_age.popleft()
            if not port.is_given_up:
                self.give_up(port)
                return

    def _on_time(self) -> None:
        self._timer = None
        now_s = self.loop.now()
        while self._by_age:
            port = self._by_age[0]
            if port.until_s > now_s and not port.is_given_up:
                self._timer = self.loop.later(port.until_s - now_s, self._on_time)
                return
            self._by_age.popleft()
            self.give_up(port)
