"""Peers of an HBONE connection that are not who they should be, or do what they should not."""

from __future__ import annotations

import socket

import pytest

from agent.model.outcome import Outcome, Refusal
from agent.net.tls_link import HIGH_BYTES, LIMIT_BYTES
from agent.net.tunnel import Tunnel
from agent.wire import h2_frames as frames
from agent.wire.h2_frames import ErrorCode
from agent.wire.hbone import connect_head
from agent.wire.tls_alerts import Alert
from tests.support.certs import credentials
from tests.support.netpair import (
    CA,
    CLIENT,
    CLIENT_ID,
    HEAD,
    SERVER_ID,
    Hbone,
    Node,
    RawClient,
    node,
)
from tests.support.playbook import data


def test_the_wrong_server_is_refused_and_the_reason_reaches_the_waiting_tunnel() -> None:
    with node() as it:
        hbone = Hbone(it, server=credentials(CA, SERVER_ID, issued=CA.issue(CLIENT_ID)))
        tunnel = hbone.ask()
        it.until(lambda: tunnel.failure and hbone.server_side.ends)
        assert tunnel.failure is not None and tunnel.failure.outcome is Outcome.WRONG_IDENTITY
        assert f"presents {CLIENT_ID}; expected {SERVER_ID}" in tunnel.failure.detail
        assert hbone.client_side.ends[0][0] is Outcome.WRONG_IDENTITY


def test_a_client_without_identity_is_refused_on_both_ends() -> None:
    with node() as it:
        hbone = Hbone(it, client=credentials(CA, CLIENT_ID, issued=CA.issue(None)))
        it.until(lambda: hbone.server_side.ends and hbone.client_side.ends)
        assert hbone.server_side.ends[0][0] is Outcome.WRONG_IDENTITY
        assert not hbone.server_side.peers and not hbone.server_side.requests
        assert "access_denied" in hbone.client_side.ends[0][1]


def test_a_peer_that_is_not_wanted_is_refused_before_its_requests_are_read() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.server_side.refusal = Refusal(Outcome.CERTIFICATE_REVOKED, "revoked")
        tunnel = hbone.ask()
        it.until(lambda: tunnel.failure)
        assert hbone.server_side.ends == [(Outcome.CERTIFICATE_REVOKED, "revoked")]
        assert not hbone.server_side.requests


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", frames.PREFACE])
def test_plaintext_on_the_tls_port_is_named(hello: bytes) -> None:
    with node() as it:
        raw = RawClient(it)
        raw.sock.send(hello)
        it.until(lambda: raw.events.ends)
        assert raw.events.ends[0][0] is Outcome.TLS_FAILED
        assert "does not speak TLS" in raw.events.ends[0][1]


def test_a_peer_that_leaves_during_the_handshake_is_named() -> None:
    with node() as it:
        raw = RawClient(it)
        raw.sock.send(b"\x16\x03\x01")
        raw.sock.close()
        it.until(lambda: raw.events.ends)
        assert raw.events.ends[0][0] is Outcome.TLS_FAILED and "closed" in raw.events.ends[0][1]


def test_a_silent_peer_is_dropped_after_the_handshake_timeout() -> None:
    with node() as it:
        raw = RawClient(it, handshake_timeout_s=5.0)
        it.settle()
        assert not raw.events.ends
        it.skew_s = 5.0
        it.until(lambda: raw.events.ends)
        assert raw.events.ends[0] == (Outcome.TLS_FAILED, "the TLS handshake was not done in time")


def test_a_peer_that_asks_and_does_not_read_the_answers_is_dropped() -> None:
    """Answers are what no reader's pause can hold back: without a limit a member could fill our memory."""
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        it.loop.forget(hbone.client_wire.fileno())  # it reads no more
        hbone.server_side.on_request = lambda tunnel: tunnel.refuse(503, [("why", "x" * 16_000)])
        most = 0
        for _ in range(2000):
            if hbone.server_side.ends:
                break
            hbone.client._codec.open("10.0.0.1:80", [])
            hbone.client.stage.flush()
            it.loop.turn(0)
            most = max(most, len(hbone.server.tls._unsent))
        assert hbone.server_side.ends == [
            (Outcome.H2_FAILED, "the peer asks for answers and does not read them")
        ]
        assert HIGH_BYTES < most <= LIMIT_BYTES, "a peer that is merely slow is given time"
        assert hbone.server_wire.fileno() == -1 and not hbone.server.tls._unsent


def test_after_a_fatal_error_nothing_more_is_taken_and_the_peer_learns_why() -> None:
    """Neither what came along with it, nor what a peer sends afterwards, however fast; and no turn is spent on it."""
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        it.stop_clock()
        wire, codec = hbone.client_wire, hbone.client._codec
        it.loop.forget(wire.fileno())
        codec.out += frames.rst_stream(99, ErrorCode.CANCEL)  # of a stream that was never opened
        codec.open("10.0.0.1:80", [])
        hbone.client.stage.flush()
        it.until(lambda: hbone.server_side.ends)
        sent = 0
        while more := flooded(it, wire):
            sent += more
            assert sent < 64 << 20, "it is read as fast as it comes"
        assert len(hbone.server_side.requests) == 1, "the request behind the error was not looked at"
        assert "idle stream 99" in hbone.server_side.ends[0][1]
        fd, spent = hbone.server_wire.fileno(), list[int]()
        heard = it.loop._watchers[fd]
        it.loop._watchers[fd] = lambda mask: (spent.append(mask), heard(mask))
        it.settle()
        assert not spent and not it.loop._soon and hbone.server_wire.fileno() >= 0
        it.loop.watch(wire.fileno(), hbone.client.tls._on_ready)
        it.until(lambda: hbone.client_side.ends)
        assert codec.goaway_received and hbone.client_side.ends[0][1].startswith("the peer closed")
        it.start_clock()
        it.until(lambda: hbone.server_wire.fileno() == -1)


def flooded(it: Node, wire: socket.socket) -> int:
    """How much an end can send until the other takes no more, turns included."""
    sent = 0
    for _ in range(200):
        try:
            sent += wire.send(bytes(1 << 16))
        except BlockingIOError:
            it.loop.turn(0.001)
    return sent


def test_http_1_inside_tls_is_named() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.client._codec.out[:] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        it.until(lambda: hbone.server_side.ends)
        assert hbone.server_side.ends[0][0] is Outcome.H2_FAILED
        assert "does not speak HTTP/2" in hbone.server_side.ends[0][1]
        it.until(lambda: hbone.client_side.ends)


def test_a_damaged_record_ends_the_connection_with_an_alert() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        hbone.client_wire.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        it.until(lambda: hbone.server_side.ends and hbone.client_side.ends)
        assert hbone.server_side.ends[0][0] is Outcome.TLS_FAILED
        assert "integrity" in hbone.server_side.ends[0][1]
        assert Alert.BAD_RECORD_MAC.name.lower() in hbone.client_side.ends[0][1]


def test_a_connect_without_port_is_a_400_and_never_reaches_the_proxy() -> None:
    with node() as it:
        hbone = Hbone(it)
        tunnel = hbone.ask(connect_head("10.0.0.1:80")._replace(authority="10.0.0.1"))
        it.until(lambda: hbone.answers)
        assert hbone.answers == [(tunnel, 400, ())]
        assert not hbone.server_side.requests and hbone.server.rejected_requests == 1
        hbone.tunnel()


def test_data_that_follows_a_rejected_request_is_dropped_with_its_credit() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        codec = hbone.client._codec
        for _ in range(3):  # request and data in one flight
            stream = codec.open("no-port", [])
            stream.owner = Tunnel(hbone.client, HEAD, hbone)
            codec.out += data(stream.id, b"x" * 100) + data(stream.id, b"", ended=True)
        hbone.client.stage.flush_soon()
        it.until(lambda: len(hbone.answers) == 4)
        assert [status for _, status, _ in hbone.answers] == [200, 400, 400, 400]
        assert hbone.server._codec._consumed == 300
        hbone.tunnel()


def test_an_oversized_header_block_is_refused_and_the_connection_stays() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.ask(connect_head("10.0.0.1:80", [("x", "y" * 70_000)]))
        it.until(lambda: hbone.answers)
        assert hbone.answers[0][1] == 0
        hbone.tunnel()


def test_a_peer_that_answers_no_ping_is_dropped() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        it.loop.forget(hbone.server_wire.fileno())  # the server goes deaf
        it.skew_s = 10.5
        it.settle()
        assert not hbone.client_side.ends
        it.skew_s = 31.0
        it.until(lambda: hbone.client_side.ends)
        assert hbone.client_side.ends[0][0] is Outcome.H2_FAILED and "PING" in hbone.client_side.ends[0][1]


def test_pings_keep_an_idle_connection() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        for _ in range(6):
            it.skew_s += 10.5
            it.settle()
        hbone.tunnel()
        assert not hbone.client_side.ends and not hbone.server_side.ends
        assert CLIENT.identity == hbone.server.peer
