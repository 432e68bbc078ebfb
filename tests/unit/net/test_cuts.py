"""Connections that a proxy cuts, or that are lost with their tunnel: both applications are reset, both logs say why."""

from __future__ import annotations

import contextlib
import socket

import pytest

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.relay import TunnelRelay
from agent.net.sockets import SideSockets, open_listener
from agent.wire.h2_frames import ErrorCode
from tests.support.joined import ENDS, Joined
from tests.support.netpair import node, read_reset


def test_a_cut_is_a_reset_on_both_legs(proxied: Joined) -> None:
    for one, other in (proxied.pair("client"), proxied.pair("server")):
        one.send(b"x")
        assert proxied.read(other, 1) == b"x"
    proxied.relays[-1].abort(Outcome.POLICY_CHANGED, "denied by default/deny-all")
    for app in (proxied.client, proxied.server):
        assert proxied.read_reset(app) == b""
    proxied.node.until(lambda: len(proxied.done) == len(proxied.relays))
    cut = proxied.relays[-1]
    assert (cut.outcome, cut.error) == (Outcome.POLICY_CHANGED, "denied by default/deny-all")
    cut.abort()
    proxied.node.settle()
    assert len(proxied.done) == len(proxied.relays)


SAID = {
    Outcome.POLICY_CHANGED: (
        Outcome.CUT_BY_PEER,
        "policy or a certificate forbids it now, INADEQUATE_SECURITY",
    ),
    Outcome.CERTIFICATE_REVOKED: (
        Outcome.CUT_BY_PEER,
        "policy or a certificate forbids it now, INADEQUATE_SECURITY",
    ),
    Outcome.OVERLOADED: (Outcome.CUT_BY_PEER, "too much is left unread there, ENHANCE_YOUR_CALM"),
    Outcome.DRAINED: (Outcome.CUT_BY_PEER, "INTERNAL_ERROR"),
    Outcome.POD_REMOVED: (Outcome.CUT_BY_PEER, "INTERNAL_ERROR"),
    Outcome.INTERNAL: (Outcome.CUT_BY_PEER, "INTERNAL_ERROR"),
    Outcome.RESET: (Outcome.RESET, "CONNECT_ERROR"),
}


@pytest.mark.parametrize("first", [0, 1], ids=ENDS)
@pytest.mark.parametrize("why", SAID, ids=lambda outcome: outcome.name)
def test_the_other_node_knows_who_cut_it_and_why(tunnelled: Joined, why: Outcome, first: int) -> None:
    tunnelled.relays[first].abort(why, "the reason")
    other = tunnelled.relays[1 - first]
    tunnelled.node.until(lambda: other in tunnelled.done)
    outcome, words = SAID[why]
    assert other.outcome is outcome and words in other.error and f"the {ENDS[first]}" in other.error


def test_the_reason_for_ending_a_whole_connection_is_told(tunnelled: Joined) -> None:
    tunnelled.hbone.server.go_away("the drain deadline of 5 s passed")
    tunnelled.relays[1].abort(Outcome.DRAINED, "here")
    tunnelled.node.until(lambda: len(tunnelled.done) == 2)
    assert tunnelled.relays[0].error == (
        "the server's proxy ended the connection (INTERNAL_ERROR); it said: the drain deadline of 5 s passed"
    )


def test_bytes_before_a_cut_are_delivered_by_the_other_node(tunnelled: Joined) -> None:
    tunnelled.client.send(b"x" * 100_000)
    tunnelled.node.until(lambda: tunnelled.relays[0].sent_bytes == 100_000)
    tunnelled.relays[0].abort(Outcome.POD_REMOVED, "gone")
    assert tunnelled.read_reset(tunnelled.server) == b"x" * 100_000


def test_bytes_before_a_loss_are_delivered_however_long_the_connection_is_gone(tunnelled: Joined) -> None:
    """A reader that was slow: as it takes them, credit falls due for a connection whose socket is closed."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            tunnelled.client.send(bytes(1 << 18))
            tunnelled.node.settle()
    backlogs = tunnelled.node.loop.backlogs
    tunnelled.node.until(lambda: backlogs.total_bytes > 1 << 18)
    came = tunnelled.relays[1].sent_bytes + backlogs.total_bytes
    tunnelled.hbone.server.abort(Outcome.RESET, "lost")
    tunnelled.node.skew_s += 5.0
    assert len(tunnelled.read_reset(tunnelled.server)) == came
    assert not backlogs.total_bytes


@pytest.mark.parametrize("first", ENDS)
def test_a_lost_connection_resets_both_after_what_had_come(tunnelled: Joined, first: str) -> None:
    tunnelled.client.send(b"up")
    tunnelled.server.send(b"down")
    tunnelled.node.settle()
    wire = tunnelled.hbone.client_wire if first == "client" else tunnelled.hbone.server_wire
    tunnelled.node.loop.forget(wire.fileno())
    close(wire, reset=True)  # as the kernel does for a worker that is killed
    other, before = (tunnelled.server, b"up") if first == "client" else (tunnelled.client, b"down")
    assert tunnelled.read_reset(other) == before
    relay = tunnelled.relays[1 if first == "client" else 0]
    tunnelled.node.until(lambda: relay in tunnelled.done)
    assert relay.outcome is Outcome.RESET
    assert relay.error.startswith("the HBONE connection ended: the connection broke: Connection reset")


# -- peers that are not ours


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL])
def test_a_reset_without_a_reason_is_in_order_only_after_the_end(tunnelled: Joined, code: ErrorCode) -> None:
    """What upstream's h2 sends where a tunnel is dropped: behind END_STREAM in order, else something was cut off."""
    relay = tunnelled.relays[1]
    assert isinstance(relay, TunnelRelay)
    tunnelled.server.send(b"the answer")
    tunnelled.server.shutdown(socket.SHUT_WR)
    assert tunnelled.read_end(tunnelled.client) == b"the answer"
    relay._tunnel.link.reset_tunnel(relay._tunnel, code)
    tunnelled.node.until(lambda: tunnelled.relays[0] in tunnelled.done)
    assert (tunnelled.relays[0].outcome, tunnelled.relays[0].error) == (Outcome.OK, "")


UNKNOWN = int.__new__(ErrorCode, 0x77)


@pytest.mark.parametrize("code", [ErrorCode.NO_ERROR, ErrorCode.CANCEL, ErrorCode.STREAM_CLOSED, UNKNOWN])
def test_a_reset_before_the_end_is_a_reset_whatever_it_says(tunnelled: Joined, code: ErrorCode) -> None:
    relay = tunnelled.relays[1]
    assert isinstance(relay, TunnelRelay)
    tunnelled.server.send(b"half of the ans")
    tunnelled.node.until(lambda: relay.received_bytes)
    relay._tunnel.link.reset_tunnel(relay._tunnel, code)
    assert tunnelled.read_reset(tunnelled.client) == b"half of the ans"
    tunnelled.node.until(lambda: tunnelled.relays[0] in tunnelled.done)
    says_why = code not in (ErrorCode.NO_ERROR, ErrorCode.CANCEL)
    assert tunnelled.relays[0].outcome is (Outcome.CUT_BY_PEER if says_why else Outcome.RESET)
    assert "the server's proxy ended the connection" in tunnelled.relays[0].error


# -- whatever ends a process


@pytest.mark.parametrize("born", ["dialled", "accepted"])
def test_a_socket_that_is_closed_without_a_word_is_reset(born: str) -> None:
    """As the kernel closes those of a worker that was killed: a FIN would tell the application that all is there."""
    with node() as it:
        sides = SideSockets(None)
        dialled = it.keep(sides.take(socket.AF_INET))
        listener = it.keep(open_listener(None, 0, transparent=False, reuse_port=False, address="127.0.0.1"))
        dialled.connect_ex(listener.getsockname())
        accepted: list[socket.socket] = []

        def arrived() -> bool:
            try:
                accepted.append(it.keep(listener.accept()[0]))
            except BlockingIOError:
                return False
            return True

        it.until(arrived)
        accepted[0].setblocking(False)
        ours, other = (dialled, accepted[0]) if born == "dialled" else (accepted[0], dialled)
        ours.send(b"some")
        ours.close()
        assert read_reset(it, other) == b"some"
        sides.close()
