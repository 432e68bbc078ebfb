"""Two applications and what is between them: nothing, a relay, or two relays with a tunnel between them."""

from __future__ import annotations

import random
import socket

from agent.model.outcome import Outcome
from agent.net.parting import unacknowledged
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from tests.support.netpair import Applications, Ended, Hbone, Node, Relayed, tcp_pair
from tests.support.traffic import Flow, take_into

KINDS = ("direct", "plain", "tunnel")
ENDS = ("client", "server")


class Joined(Applications):
    """Two applications and what is between them. `done`: the relays that have ended."""

    def __init__(self, it: Node, kind: str) -> None:
        self.node = it
        self.kind = kind
        self.relays: list[PlainRelay | TunnelRelay] = []
        self.done = Ended[PlainRelay | TunnelRelay]()
        if kind == "tunnel":
            self.hbone = Hbone(it)
            relayed = Relayed(self.hbone, *self.hbone.tunnel())
            self.client, self.server, self.done = relayed.client, relayed.server, relayed.done  # type: ignore[assignment]
            self.relays = [relayed.client_relay, relayed.server_relay]
            return
        self.client, near = tcp_pair()
        sockets = [self.client, near]
        if kind == "plain":
            self.server, far = tcp_pair()
            sockets += [self.server, far]
            self.relays = [PlainRelay(it.loop, near, far, self.done)]
            self.relays[0].start()
        else:
            self.server = near
        for sock in sockets:
            it.keep(sock)

    def pair(self, first: str) -> tuple[socket.socket, socket.socket]:
        return (self.client, self.server) if first == "client" else (self.server, self.client)

    def read(self, sock: socket.socket, size: int) -> bytes:
        got = bytearray()
        self.node.until(lambda: take_into(sock, got) or len(got) >= size)
        return bytes(got)

    def fill(self, source: socket.socket, sink: socket.socket, size: int) -> Flow:
        """Send `size` bytes that nobody reads, until all of them have left the application's own kernel buffer."""
        flow = Flow(source, sink, size, 1, ends=False)

        def sent() -> bool:
            flow.push()
            return flow.sent == size and not unacknowledged(source)

        self.node.until(sent)
        return flow

    def stuff(self, first: str) -> bytes:
        """Send until the relay next to the sender can carry no more, and some bytes that wait in its socket then."""
        source, _ = self.pair(first)
        sent = bytearray()
        rng = random.Random(1)
        while True:
            piece = rng.randbytes(1 << 15)
            is_blocked = self._is_blocked(first)
            source.send(piece)
            sent += piece
            self.node.until(lambda: not unacknowledged(source))
            for _ in range(4):
                self.node.loop.turn(0.0)
            if is_blocked:
                return bytes(sent)

    def _is_blocked(self, first: str) -> bool:
        relay = self.relays[0 if first == "client" else -1]
        if isinstance(relay, TunnelRelay):
            return relay._is_waiting
        return bool((relay._server if first == "client" else relay._client).backlog)

    def is_over(self, words: str) -> None:
        """Every relay has ended and says in these words why."""
        self.node.until(lambda: len(self.done) == len(self.relays))
        for relay in self.relays:
            assert relay.outcome is Outcome.RESET and words in relay.error, relay.error
