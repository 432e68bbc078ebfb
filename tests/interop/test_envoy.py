"""HBONE with the real Envoy at the other end, in both roles."""

from __future__ import annotations

import socket

import pytest

from agent.identity.handshake import Session
from agent.model.outcome import Outcome
from agent.net.byte_stream import SocketStream
from agent.net.tunnel_link import TunnelLink
from agent.wire.h2_events import MIB
from tests.support.envoy_pair import AUTHORITY, accept, dial, envoy_client, envoy_server
from tests.support.netpair import CLIENT, CLIENT_ID, SERVER, SERVER_ID, ClientSide
from tests.support.traffic import Flow, take_into

pytestmark = pytest.mark.envoy


def test_envoy_as_client_64_mib_each_way_byte_exact() -> None:
    with envoy_client() as (it, server, peer):
        client = dial(it, peer.listen)
        it.until(lambda: server.apps)
        up = Flow(client, server.apps[0], 64 * MIB, 1)
        down = Flow(server.apps[0], client, 64 * MIB, 2)
        it.until(lambda: up.step() & down.step(), 60)
        assert up.got == up.data and down.got == down.data
        assert str(server.side.peers[0]) == CLIENT_ID
        assert server.side.requests[0][1].authority == AUTHORITY
        it.until(lambda: server.done)
        assert (server.done[0].sent_bytes, server.done[0].received_bytes) == (64 * MIB, 64 * MIB)


def test_envoy_as_client_half_closes_and_we_too() -> None:
    with envoy_client() as (it, server, peer):
        client = dial(it, peer.listen)
        client.send(b"question")
        client.shutdown(socket.SHUT_WR)
        it.until(lambda: server.apps)
        got = bytearray()
        it.until(lambda: take_into(server.apps[0], got))
        assert got == b"question"
        server.apps[0].send(b"answer")
        server.apps[0].shutdown(socket.SHUT_WR)
        got = bytearray()
        it.until(lambda: take_into(client, got))
        assert got == b"answer"


def test_envoy_as_client_opens_many_streams() -> None:
    with envoy_client() as (it, server, peer):
        clients = [dial(it, peer.listen) for _ in range(150)]
        for number, client in enumerate(clients):
            client.send(b"%04d" % number)
        it.until(lambda: len(server.apps) == 150)
        it.settle()
        assert sorted(app.recv(10) for app in server.apps) == [b"%04d" % n for n in range(150)]
        assert len(server.links) == 1


def test_envoy_as_client_follows_our_go_away() -> None:
    with envoy_client() as (it, server, peer):
        old = dial(it, peer.listen)
        it.until(lambda: server.apps)
        server.links[0].go_away()
        it.settle()
        new = dial(it, peer.listen)
        it.until(lambda: len(server.links) == 2 and len(server.apps) == 2)
        for client, app in ((old, server.apps[0]), (new, server.apps[1])):
            client.send(b"alive")
            got = bytearray()
            it.until(lambda app=app, got=got: take_into(app, got) or got == b"alive")
        old.close()
        server.apps[0].shutdown(socket.SHUT_WR)
        it.until(lambda: server.side.ends)
        assert server.side.ends[0][0] is Outcome.OK


def test_envoy_as_server_64_mib_each_way_byte_exact() -> None:
    with envoy_server() as (it, ours, listener, _):
        client = ours.connect()
        server = accept(it, listener)
        up = Flow(client, server, 64 * MIB, 1)
        # Envoy resets a request whose answer has ended: so the server's direction ends last.
        down = Flow(server, client, 64 * MIB, 2, ends=False)
        it.until(lambda: up.step() & (down.step() or len(down.got) == 64 * MIB), 60)
        server.shutdown(socket.SHUT_WR)
        it.until(lambda: down.step() and ours.done)
        assert up.got == up.data and down.got == down.data
        assert str(ours.side.peers[0]) == SERVER_ID and ours.done[0].error == ""


def test_envoy_as_server_half_close() -> None:
    with envoy_server() as (it, ours, listener, _):
        client = ours.connect()
        server = accept(it, listener)
        client.send(b"question")
        client.shutdown(socket.SHUT_WR)
        got = bytearray()
        it.until(lambda: take_into(server, got))
        assert got == b"question"
        server.send(b"answer")
        server.shutdown(socket.SHUT_WR)
        got = bytearray()
        it.until(lambda: take_into(client, got))
        assert got == b"answer"


def test_envoy_that_allows_ten_streams_gets_ten_at_a_time() -> None:
    with envoy_server(streams=10) as (it, ours, listener, peer):
        ours.connect()
        first = accept(it, listener)
        it.until(lambda: ours.statuses == [200])  # so Envoy's SETTINGS are here, too
        assert ours.link.free_streams == 9
        clients = [ours.connect() for _ in range(25)]
        servers = [accept(it, listener) for _ in range(9)]
        it.until(lambda: len(ours.statuses) >= 10)
        it.settle()
        assert ours.statuses == [200] * 10 and ours.link.free_streams == 0
        for done in range(16):
            old = [first, *servers].pop(done) if done < 10 else servers[done - 1]
            old.close()
            servers.append(accept(it, listener))
        it.until(lambda: len(ours.statuses) == 26)
        assert set(ours.statuses) == {200} and len(clients) == 25
        assert peer.stat("http.terminate.downstream_rq_too_many_premature_resets") == 0


def test_envoy_that_drains_is_left_in_order() -> None:
    with envoy_server() as (it, ours, listener, peer):
        client = ours.connect()
        server = accept(it, listener)
        peer.get("/drain_listeners?graceful", post=True)
        extra = ours.connect()  # activity on the connection makes Envoy notice that it drains
        extra_server = accept(it, listener)
        it.until(lambda: not ours.link.is_usable)
        client.send(b"still alive")
        got = bytearray()
        it.until(lambda: take_into(server, got) or got == b"still alive")
        for sock in (client, extra, server, extra_server):
            sock.close()
        it.until(lambda: ours.side.ends)
        assert ours.side.ends[0][0] is Outcome.OK


def test_a_client_envoy_does_not_trust_is_told_so() -> None:
    with envoy_server() as (it, _, _, peer):
        side = ClientSide()
        wire = dial(it, peer.listen)
        TunnelLink.fresh(
            it.loop, SocketStream(it.loop, wire), Session.client(SERVER, (SERVER.identity,)), side
        ).start()
        it.until(lambda: side.ends)
        assert side.ends[0][0] is Outcome.TLS_FAILED
        assert "the peer does not accept our certificate" in side.ends[0][1]


def test_an_envoy_we_do_not_expect_is_refused() -> None:
    with envoy_server() as (it, _, _, peer):
        side = ClientSide()
        wire = dial(it, peer.listen)
        TunnelLink.fresh(
            it.loop, SocketStream(it.loop, wire), Session.client(CLIENT, (CLIENT.identity,)), side
        ).start()
        it.until(lambda: side.ends)
        assert side.ends[0][0] is Outcome.WRONG_IDENTITY and SERVER_ID in side.ends[0][1]
