"""HBONE connections between two of ours over real sockets: streams, limits, ends, refusals."""

from __future__ import annotations

import gc
import socket

import pytest

from agent.model.outcome import Outcome, Refusal
from agent.net.tunnel import Tunnel
from agent.wire import h2_frames as frames
from agent.wire.h2_frames import ErrorCode
from agent.wire.hbone import connect_head
from tests.support.netpair import (
    CLIENT_ID,
    SERVER_ID,
    Hbone,
    Node,
    RawClient,
    node,
)


def test_both_ends_know_who_the_other_is_and_how_it_is_protected() -> None:
    with node() as it:
        hbone = Hbone(it)
        it.until(lambda: hbone.client_side.peers and hbone.server_side.peers)
        assert str(hbone.client_side.peers[0]) == SERVER_ID == str(hbone.client.peer)
        assert str(hbone.server_side.peers[0]) == CLIENT_ID == str(hbone.server.peer)
        assert hbone.client.secured is not None and hbone.client.secured.suite == "TLS_AES_128_GCM_SHA256"


def test_a_request_made_before_the_handshake_waits_for_it() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.server_side.on_request = lambda tunnel: tunnel.accept([("baggage", "k=v")])
        head = connect_head("[fd00::1]:8080", [("forwarded", "for=x")])
        hbone.ask(head)
        it.until(lambda: hbone.answers)
        assert hbone.answers[0][1:] == (200, (("baggage", "k=v"),))
        assert hbone.server_side.requests[0][1] == head


def test_a_refusal_is_an_answer_and_leaves_the_connection_usable() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.server_side.on_request = lambda tunnel: tunnel.refuse(401)
        hbone.ask()
        it.until(lambda: hbone.answers)
        assert hbone.answers[0][1] == 401
        hbone.tunnel()
        assert hbone.answers[1][1] == 200 and not hbone.client_side.ends


def test_a_refusal_raised_while_a_request_is_judged_is_answered() -> None:
    def refuse(tunnel: Tunnel) -> None:
        raise Refusal(Outcome.ADDRESS_MISMATCH, "not here")

    with node() as it:
        hbone = Hbone(it)
        hbone.server_side.on_request = refuse
        hbone.ask()
        it.until(lambda: hbone.answers)
        assert hbone.answers[0][1] == 400


def test_free_streams_follow_the_cap_and_the_peers_live_settings() -> None:
    with node() as it:
        hbone = Hbone(it, streams_limit=5)
        assert hbone.client.free_streams == 5
        hbone.tunnel()
        assert (hbone.client.free_streams, hbone.client.open_streams) == (4, 1)
        hbone.server._codec.out += frames.settings({frames.Setting.MAX_CONCURRENT_STREAMS: 2})
        hbone.server.stage.flush_soon()
        it.until(lambda: hbone.client.free_streams == 1)
        tunnels = [hbone.ask() for _ in range(3)]
        it.settle()
        assert len(hbone.server_side.requests) == 2  # the others wait for a place
        tunnels[0].reset()
        it.until(lambda: len(hbone.server_side.requests) == 3)
        assert hbone.client_side.available_calls > 0


class Gone:
    """The owner of tunnels that have no sink yet: those taken back."""

    def __init__(self) -> None:
        self.tunnels: list[Tunnel] = []

    def gone(self, tunnel: Tunnel) -> None:
        self.tunnels.append(tunnel)


def test_a_reset_while_the_server_is_still_dialling_reaches_it() -> None:
    with node() as it:
        hbone = Hbone(it)
        gone = Gone()
        hbone.server_side.on_request = lambda tunnel: setattr(tunnel, "owner", gone)
        tunnel = hbone.ask()
        it.until(lambda: hbone.server_side.requests)
        tunnel.reset()
        it.until(lambda: gone.tunnels)
        assert not hbone.answers and gone.tunnels[0].is_gone
        gone.tunnels[0].accept()  # too late, and harmless
        it.settle()


def test_a_reset_by_the_server_before_its_answer_is_a_failure_with_a_reason() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.server_side.on_request = lambda tunnel: tunnel.reset(ErrorCode.REFUSED_STREAM)
        hbone.ask()
        it.until(lambda: hbone.answers)
        tunnel, status, _ = hbone.answers[0]
        assert status == 0 and tunnel.failure is not None and "REFUSED_STREAM" in tunnel.failure.detail
        assert tunnel.is_unseen, "so that another connection may carry it"


def test_go_away_lets_tunnels_finish_and_takes_no_new_ones() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        hbone.server.go_away()
        it.until(lambda: not hbone.client.is_usable)
        assert hbone.client.free_streams == 0
        late = hbone.ask()
        it.until(lambda: late.failure)
        relayed.client.send(b"still here")
        assert relayed.read(relayed.server, 10) == b"still here"
        relayed.client.shutdown(socket.SHUT_WR)
        relayed.server.shutdown(socket.SHUT_WR)
        it.until(lambda: hbone.client_side.ends and hbone.server_side.ends)
        assert hbone.client_side.ends[0][0] is hbone.server_side.ends[0][0] is Outcome.OK
        assert all(not relay.error for relay in relayed.done)


def test_the_pool_hears_of_the_last_tunnel_that_ends_whoever_speaks_last() -> None:
    """Else a connection that fell idle by our own END_STREAM or reset would never be found idle."""
    with node() as it:
        hbone = Hbone(it)
        for ends_here in (lambda tunnel: hbone.client.end_stream(tunnel.stream), Tunnel.reset):
            outer, inner = hbone.tunnel()
            hbone.server.end_stream(inner.stream)
            it.settle()
            assert hbone.client.open_streams == 1
            calls = hbone.client_side.available_calls
            ends_here(outer)
            it.until(lambda calls=calls: hbone.client_side.available_calls > calls)
            assert hbone.client.open_streams == 0


def test_an_idle_connection_closes_when_the_client_says_so() -> None:
    with node() as it:
        hbone = Hbone(it)
        it.until(lambda: hbone.client_side.peers and hbone.server_side.peers)
        hbone.client.go_away()
        it.until(lambda: hbone.client_side.ends and hbone.server_side.ends)
        assert hbone.server_side.ends[0][0] is Outcome.OK


def test_an_abort_fails_every_tunnel_on_both_ends() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        waiting = hbone.ask()
        it.settle()
        hbone.server.abort(Outcome.POLICY_CHANGED, "revoked")
        it.until(lambda: len(relayed.done) == 2)
        assert hbone.server_side.ends == [(Outcome.POLICY_CHANGED, "revoked")]
        assert relayed.server_relay.outcome is Outcome.POLICY_CHANGED and relayed.client_relay.error
        it.until(lambda: waiting.is_gone)
        with pytest.raises(ConnectionResetError):
            relayed.read_end(relayed.server)


def test_a_lost_connection_says_why_to_those_who_wait_for_an_answer() -> None:
    with node() as it:
        hbone = Hbone(it)
        it.until(lambda: hbone.client_side.peers)
        hbone.ask()
        it.until(lambda: hbone.server_side.requests)
        hbone.server_wire.shutdown(socket.SHUT_RDWR)
        it.until(lambda: hbone.answers)
        tunnel, status, _ = hbone.answers[0]
        assert status == 0 and tunnel.failure is not None
        assert hbone.client_side.ends[0][0] is not Outcome.OK


# -- refused connections


def played(it: Node) -> None:
    """Connections that end in every way: with tunnels that were relayed, refused, taken back, cut, and without any."""
    hbone = Hbone(it)
    relayed = hbone.relayed()
    relayed.client.close()
    relayed.server.close()
    hbone.server_side.on_request = lambda tunnel: tunnel.refuse(401)
    hbone.ask()
    it.until(lambda: len(hbone.answers) == 2)
    hbone.server_side.on_request = lambda tunnel: None
    hbone.ask().reset()
    it.settle()
    hbone.client.go_away()
    it.until(lambda: hbone.server_side.ends and hbone.client_side.ends)
    cut = Hbone(it)
    cut.tunnel()
    cut.server.abort()
    it.until(lambda: cut.client_side.ends)
    RawClient(it).sock.send(b"no TLS at all")
    it.settle()


def test_connections_that_ended_leave_nothing_to_the_garbage_collector() -> None:
    """A worker tells it not to look at what there was when a large change came."""
    kinds = {"TunnelLink", "TlsLink", "H2Tunnels", "Tunnel", "Stream", "Stage", "Farewell", "TlsRecords"}
    with node() as it:
        gc.collect()
        gc.disable()
        try:
            for _ in range(2):
                played(it)
            it.skew_s += 5
            it.settle()  # the last words are said, and old timers are gone
            it.skew_s += 60
            it.settle()
            left = [thing for thing in gc.get_objects() if type(thing).__name__ in kinds]
            assert not left, [type(thing).__name__ for thing in left]
        finally:
            gc.enable()
