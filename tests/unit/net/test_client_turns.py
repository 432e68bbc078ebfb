"""A client's handshake in turns: nothing happens outside of its turn, and waiting for it is none of the peer's time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agent.identity.handshake import Session
from agent.model.outcome import Outcome
from agent.net.byte_stream import SocketStream
from agent.net.tunnel_link import TunnelLink
from agent.net.turns import Step
from tests.support.netpair import CLIENT, SERVER, ClientSide, Node, node, tcp_pair

LIMIT_S = 5.0


class Waiting:
    """A client whose turns the test gives, and the socket of its peer; the clock stands where the test leaves it."""

    def __init__(self, it: Node) -> None:
        self._it = it
        it.stop_clock()
        near, self.far = tcp_pair()
        it.keep(near)
        it.keep(self.far)
        self.steps: list[Step] = []
        self.side = ClientSide()
        self.peer = Session.server(SERVER)
        self.link = TunnelLink.fresh(
            it.loop,
            SocketStream(it.loop, near),
            Session.client(CLIENT, (SERVER.identity,)),
            self.side,
            handshake_timeout_s=LIMIT_S,
            ask_turn=self.steps.append,
        )
        self.link.start()
        it.settle()

    def take(self) -> None:
        """All turns that were asked for."""
        steps, self.steps[:] = list(self.steps), []
        for step in steps:
            step()
        self._it.settle()

    def wait(self, seconds: float) -> None:
        self._it.skew_s += seconds
        self._it.settle()

    def heard(self) -> bytes:
        return self.far.recv(1 << 16)

    def answer(self) -> bytes:
        self.peer.feed(self.heard())
        return self.peer.outgoing()

    def say(self, data: bytes) -> None:
        self.far.send(data)
        self._it.settle()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    with node() as it:
        yield Waiting(it)


def test_the_peers_time_stands_while_a_step_waits_for_its_turn(waiting: Waiting) -> None:
    waiting.wait(10 * LIMIT_S)
    with pytest.raises(BlockingIOError):
        waiting.heard()
    waiting.take()
    waiting.wait(LIMIT_S - 1)
    waiting.say(waiting.answer())
    waiting.wait(10 * LIMIT_S)
    assert waiting.link.secured is None and not waiting.side.ends
    waiting.take()
    assert waiting.link.secured is not None and waiting.side.peers == [SERVER.identity]
    waiting.peer.feed(waiting.heard())
    assert waiting.peer.done
    waiting.wait(10 * LIMIT_S)
    assert not any(outcome is Outcome.TLS_FAILED for outcome, _ in waiting.side.ends)


def test_the_peers_time_goes_on_where_it_stood(waiting: Waiting) -> None:
    waiting.take()
    waiting.wait(LIMIT_S - 1)
    waiting.say(waiting.answer()[:100])
    waiting.wait(10 * LIMIT_S)
    waiting.take()
    assert not waiting.side.ends, "it has a second left"
    waiting.wait(1)
    assert waiting.side.ends == [(Outcome.TLS_FAILED, "the TLS handshake was not done in time")]


def test_a_peer_that_leaves_before_the_hello_is_noticed(waiting: Waiting) -> None:
    waiting.far.shutdown(socket.SHUT_WR)
    waiting.wait(0)
    waiting.take()
    waiting.take()
    assert waiting.side.ends == [(Outcome.TLS_FAILED, "TLS handshake: the peer closed the connection")]
