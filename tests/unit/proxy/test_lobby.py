"""Connections that have not said a whole hello: what is made of their first words, and whom they cost what."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.identity.faults import Fault
from agent.identity.handshake import Session
from agent.model.address import SocketAddress, parse_ip
from agent.proxy.handshakes import Handshakes
from agent.proxy.lobby import LOOKS, Caller, Lobby
from tests.support.netpair import CLIENT, SERVER, Node, node, tcp_pair

HELLO = Session.client(CLIENT, (SERVER.identity,)).outgoing()
POD = SocketAddress(parse_ip("10.0.0.1"), 15008)
TIMEOUT_S = 10.0


class Desk:
    """A lobby and its owner, which notes what it is told."""

    def __init__(self, it: Node, connections: int = 10_000) -> None:
        self.it = it
        self.calls: list[tuple[Caller, float]] = []
        self.refusals: list[tuple[Fault, str]] = []
        self.raises = False
        self.handshakes = Handshakes(it.loop, connections)
        self.lobby = Lobby(it.loop, self.handshakes, self, TIMEOUT_S)

    def called(self, caller: Caller, left_s: float) -> None:
        self.calls.append((caller, left_s))

    def turned_away(self, caller: Caller, fault: Fault, detail: str) -> None:
        self.refusals.append((fault, detail))
        if self.raises:
            raise ValueError("a defect")

    def enter(self, source: str = "10.0.0.2", said: bytes = b"") -> socket.socket:
        """The peer's end of a connection that has come in, with what it said before."""
        ours, theirs = tcp_pair()
        if said:
            ours.send(said)
            select.select([theirs], [], [])
        self.it.keep(ours)
        self.it.keep(theirs)
        self.lobby.enter(theirs, SocketAddress(parse_ip(source), 4711), POD)
        return ours


@pytest.fixture
def desk() -> Iterator[Desk]:
    with node() as it:
        made = Desk(it)
        yield made
        made.lobby.close()


@pytest.mark.parametrize("piece", [1, 5, 6, 100, len(HELLO)])
def test_who_has_said_hello_is_called_once_and_with_every_word_it_said(desk: Desk, piece: int) -> None:
    peer = desk.enter()
    for at in range(0, len(HELLO) - 1, piece):
        peer.send(HELLO[at : min(at + piece, len(HELLO) - 1)])
        desk.it.loop.turn(0.001)
    assert not desk.calls and not desk.refusals and len(desk.lobby) == len(desk.handshakes) == 1
    peer.send(HELLO[-1:])
    desk.it.until(lambda: desk.calls)
    desk.it.settle()
    ((caller, left_s),) = desk.calls
    assert caller.said == HELLO and 0 < left_s <= TIMEOUT_S
    assert len(desk.lobby) == len(desk.handshakes) == 0


@pytest.mark.parametrize(
    ("said", "fault", "text"),
    [
        (b"GET / HTTP/1.1\r\n", Fault.NOT_TLS, "its first bytes are b'GET / HTTP/1.1"),
        (b"x", Fault.NOT_TLS, "its first bytes are b'x'"),
        (b"\x15\x03\x03\x00\x02\x01\x00", Fault.NOT_TLS, "does not speak TLS here"),
        (b"\x16\x02", Fault.NOT_TLS, "does not speak TLS here"),
        (b"\x16\x03\x01\x00\x05\x02", Fault.PROTOCOL, "does not begin with a ClientHello"),
        (b"\x16\x03\x01\xff\xff\x01", Fault.PROTOCOL, "does not begin with a ClientHello"),
    ],
)
def test_what_is_no_hello_is_turned_away_by_its_first_words(
    desk: Desk, said: bytes, fault: Fault, text: str
) -> None:
    peer = desk.enter()
    peer.send(said)
    desk.it.until(lambda: desk.refusals)
    assert desk.refusals[0][0] is fault and text in desk.refusals[0][1]
    desk.it.until(lambda: select.select([peer], [], [], 0)[0])
    assert peer.recv(1) == b"", "an end, not a reset"
    assert not desk.calls and len(desk.lobby) == len(desk.handshakes) == 0


def test_who_has_said_all_on_coming_in_waits_for_nothing_else(desk: Desk) -> None:
    desk.enter(said=b"nonsense")
    assert [fault for fault, _ in desk.refusals] == [Fault.NOT_TLS], "before a turn of the loop"
    desk.enter(said=HELLO)
    assert len(desk.handshakes) == 1 and not desk.calls, "its step waits for its turn all the same"
    desk.it.until(lambda: desk.calls)
    assert desk.calls[0][0].said == HELLO


@pytest.mark.parametrize("said", [b"", HELLO[:100]], ids=["silent", "in its hello"])
def test_a_peer_that_leaves_first_is_named(desk: Desk, said: bytes) -> None:
    peer = desk.enter()
    peer.send(said)
    peer.close()
    desk.it.until(lambda: desk.refusals)
    assert desk.refusals == [(Fault.CLOSED, "TLS handshake: the peer closed the connection")]


def test_nobody_stays_longer_than_the_limit_and_each_has_all_of_it(desk: Desk) -> None:
    desk.it.stop_clock()
    desk.enter()
    desk.it.skew_s += TIMEOUT_S / 2
    desk.enter().send(HELLO[:100])
    desk.it.skew_s += TIMEOUT_S / 2
    desk.it.settle()
    assert [fault for fault, _ in desk.refusals] == [Fault.TIMEOUT] and len(desk.lobby) == 1
    desk.it.skew_s += TIMEOUT_S / 2
    desk.it.settle()
    assert len(desk.refusals) == 2 and len(desk.lobby) == 0


def test_what_a_member_sends_does_not_stand_in_line_behind_a_crowd(desk: Desk) -> None:
    """The crowd had spoken before; of it no more than a round's worth is looked at first."""
    desk.it.stop_clock()
    with ExitStack() as stack:
        member, ours = map(stack.enter_context, tcp_pair())
        before: list[int] = []
        desk.it.loop.watch(ours.fileno(), lambda mask: before.append(len(desk.refusals)))
        desk.it.settle()
        before.clear()
        for n in range(4 * LOOKS):
            desk.enter(f"10.1.{n // 4}.1").send(b"nonsense")
        member.send(b"x")
        desk.it.until(lambda: len(desk.refusals) == 4 * LOOKS)
        assert len(before) == 1 and before[0] <= LOOKS


def test_a_defect_costs_one_connection_and_not_the_lobby(desk: Desk) -> None:
    desk.raises = True
    desk.enter().send(b"nonsense")
    with pytest.raises(ValueError, match="a defect"):
        desk.it.until(lambda: False)
    desk.it.errors.clear()
    desk.enter().send(HELLO)
    desk.it.until(lambda: desk.calls)


def test_a_pod_that_leaves_takes_its_callers_along(desk: Desk) -> None:
    peer = desk.enter()
    desk.lobby.close_pod(frozenset([parse_ip("10.0.0.9")]))
    assert len(desk.lobby) == 1
    desk.lobby.close_pod(frozenset([POD.ip]))
    assert len(desk.lobby) == len(desk.handshakes) == 0
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
