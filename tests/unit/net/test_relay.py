"""Relays between real sockets and a real tunnel: every byte, every kind of end, and no memory for the slow."""

from __future__ import annotations

import gc
import socket

import pytest

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.relay import PlainRelay, TunnelRelay
from agent.net.tls_link import HIGH_BYTES
from agent.net.tunnel import Tunnel
from agent.wire.h2_events import MIB
from tests.support.netpair import Ended, Hbone, Node, node, tcp_pair
from tests.support.traffic import Flow, take_into


def test_64_mib_each_way_at_once_and_the_ends_are_ends() -> None:
    with node() as it:
        relayed = Hbone(it).relayed()
        size = 64 * MIB
        up = Flow(relayed.client, relayed.server, size, 1)
        down = Flow(relayed.server, relayed.client, size, 2)
        it.until(lambda: up.step() & down.step() and len(relayed.done) == 2, 60)
        assert up.got == up.data and down.got == down.data
        for relay in (relayed.client_relay, relayed.server_relay):
            assert (relay.sent_bytes, relay.received_bytes) == (size, size)
            assert (relay.outcome, relay.error) == (Outcome.OK, "")


def test_many_tunnels_share_one_connection_and_none_starves() -> None:
    with node() as it:
        hbone = Hbone(it)
        flows = []
        for seed in range(20):
            relayed = hbone.relayed()
            flows.append(Flow(relayed.client, relayed.server, MIB + seed, seed))
        it.until(lambda: sum(flow.step() for flow in flows) == len(flows), 60)
        assert all(flow.got == flow.data for flow in flows)


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close_leaves_the_other_direction_open(first: str) -> None:
    with node() as it:
        relayed = Hbone(it).relayed()
        one, two = relayed.client, relayed.server
        if first == "server":
            one, two = two, one
        one.send(b"question")
        one.shutdown(socket.SHUT_WR)
        assert relayed.read_end(two) == b"question"
        two.send(b"a late answer")
        assert relayed.read(one, 13) == b"a late answer"
        assert not relayed.done
        two.shutdown(socket.SHUT_WR)
        assert relayed.read_end(one) == b""
        it.until(lambda: len(relayed.done) == 2)
        assert relayed.client_relay.error == relayed.server_relay.error == ""


class OneEnd:
    """An application relayed into one end of a tunnel."""

    def __init__(self, it: Node, tunnel: Tunnel) -> None:
        self.it = it
        self.app, near = tcp_pair()
        it.keep(self.app)
        it.keep(near)
        self.done = Ended[TunnelRelay]()
        self.relay = TunnelRelay(it.loop, near, tunnel, self.done)
        self.relay.start()

    def read(self, size: int | None = None) -> bytes:
        """`size` bytes, or all up to the end."""
        got = bytearray()
        self.it.until(lambda: take_into(self.app, got) or len(got) == size)
        return bytes(got)


def test_the_server_may_speak_first_and_the_client_before_there_is_a_relay() -> None:
    with node() as it:
        outer, inner = Hbone(it).tunnel()
        client = OneEnd(it, outer)
        client.app.send(b"early")
        client.app.shutdown(socket.SHUT_WR)
        it.settle()
        server = OneEnd(it, inner)
        server.app.send(b"220 ready")
        assert server.read() == b"early"
        assert client.read(9) == b"220 ready"


def test_a_reader_that_sleeps_stops_the_sender_within_the_window() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        flow = Flow(relayed.client, relayed.server, 40 * MIB, 3)
        for _ in range(100):
            flow.push()
            it.loop.turn(0.001)
        held = len(relayed.server_relay._backlog)
        assert held <= 4 * MIB and len(hbone.client.tls._unsent) <= 2 * HIGH_BYTES
        assert flow.sent < 30 * MIB  # window, and what four kernel buffers hold
        other = hbone.relayed()  # another tunnel of the same connection is not held up
        other.client.send(b"alive")
        assert other.read(other.server, 5) == b"alive"
        it.until(flow.step, 60)
        assert flow.got == flow.data
        assert len(hbone.client.waiters) <= 1  # however often it waited


def test_counters_are_live_and_fixed_in_direction() -> None:
    with node() as it:
        relayed = Hbone(it).relayed()
        relayed.client.send(b"12345")
        relayed.read(relayed.server, 5)
        relayed.server.send(b"123")
        relayed.read(relayed.client, 3)
        for relay in (relayed.client_relay, relayed.server_relay):
            assert (relay.sent_bytes, relay.received_bytes) == (5, 3)


# -- plain


class Plain:
    def __init__(self, it: Node) -> None:
        self.client, near = tcp_pair()
        self.server, far = tcp_pair()
        for sock in (self.client, near, self.server, far):
            it.keep(sock)
        self.done = Ended[PlainRelay]()
        self.relay = PlainRelay(it.loop, near, far, self.done)
        self.relay.start()


def test_plain_16_mib_each_way_and_the_ends() -> None:
    with node() as it:
        plain = Plain(it)
        up = Flow(plain.client, plain.server, 16 * MIB, 1)
        down = Flow(plain.server, plain.client, 16 * MIB, 2)
        it.until(lambda: up.step() & down.step() and plain.done, 60)
        assert up.got == up.data and down.got == down.data
        assert (plain.relay.sent_bytes, plain.relay.received_bytes) == (16 * MIB, 16 * MIB)
        assert plain.relay.error == ""


def test_plain_half_close() -> None:
    with node() as it:
        plain = Plain(it)
        plain.client.send(b"question")
        plain.client.shutdown(socket.SHUT_WR)
        got = bytearray()
        it.until(lambda: take_into(plain.server, got))
        assert got == b"question" and not plain.done
        plain.server.send(b"answer")
        plain.server.close()
        got = bytearray()
        it.until(lambda: take_into(plain.client, got))
        assert got == b"answer"
        it.until(lambda: plain.done)


def test_plain_slow_reader_holds_one_batch() -> None:
    with node() as it:
        plain = Plain(it)
        flow = Flow(plain.client, plain.server, 40 * MIB, 1)
        for _ in range(50):
            flow.push()
            it.loop.turn(0.001)
        assert len(plain.relay._server.backlog) <= 1 << 18
        assert flow.sent < 30 * MIB
        it.until(flow.step)
        assert flow.got == flow.data


def test_plain_relays_that_ended_leave_nothing_to_the_garbage_collector() -> None:
    with node() as it:
        gc.collect()
        gc.disable()
        try:
            for reset in (False, True):
                plain = Plain(it)
                plain.client.send(b"hello")
                it.settle()
                if reset:
                    close(plain.client, reset=True)
                else:
                    plain.client.close()
                plain.server.close()
                it.until(lambda plain=plain: plain.done)
                assert plain.relay.sent_bytes == 5
            del plain
            it.settle()
            assert not [
                thing for thing in gc.get_objects() if type(thing).__name__ in ("PlainRelay", "PlainEnd")
            ]
        finally:
            gc.enable()
