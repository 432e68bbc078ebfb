"""How connections end: as they would without a proxy, so everything about applications is held against direct TCP.

Each shape runs over a plain TCP connection (what the kernel does by itself), over two sockets that are relayed to each
other, and over two relays with a tunnel between them.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator

import pytest

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.parting import PATIENCE_S, unacknowledged
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.sockets import SideSockets, open_listener
from agent.wire.h2_events import MIB
from agent.wire.h2_frames import ErrorCode
from tests.support.netpair import Ended, Hbone, Node, Relayed, node, read_reset, tcp_pair
from tests.support.traffic import Flow, take_into

KINDS = ("direct", "plain", "tunnel")
ENDS = ("client", "server")


class Joined:
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

    def read_end(self, sock: socket.socket) -> bytes:
        got = bytearray()
        self.node.until(lambda: take_into(sock, got))
        return bytes(got)

    def read_reset(self, sock: socket.socket) -> bytes:
        return read_reset(self.node, sock)

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


@pytest.fixture(params=KINDS)
def joined(request: pytest.FixtureRequest) -> Iterator[Joined]:
    with node() as it:
        yield Joined(it, request.param)


@pytest.fixture(params=["plain", "tunnel"])
def proxied(request: pytest.FixtureRequest) -> Iterator[Joined]:
    with node() as it:
        yield Joined(it, request.param)


@pytest.fixture
def tunnelled() -> Iterator[Joined]:
    with node() as it:
        yield Joined(it, "tunnel")


def fails_to_send(joined: Joined, sock: socket.socket) -> None:
    """Sooner or later; the first bytes may still find room."""

    def refused() -> bool:
        try:
            sock.send(b"nobody reads this")
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    joined.node.until(refused)


# -- what applications do


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_comes_after_the_bytes_before_it(joined: Joined, first: str) -> None:
    one, other = joined.pair(first)
    one.send(b"PART")
    joined.node.settle()
    close(one, reset=True)
    assert joined.read_reset(other) == b"PART"
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_before_any_byte(joined: Joined, first: str) -> None:
    one, other = joined.pair(first)
    close(one, reset=True)
    assert joined.read_reset(other) == b""
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_waits_for_a_reader_that_is_busy(joined: Joined, first: str) -> None:
    """Megabytes in every buffer on the way: all of them come out before the reset."""
    one, other = joined.pair(first)
    size = 50_000 if joined.kind == "direct" else 3 * MIB
    flow = joined.fill(one, other, size)
    close(one, reset=True)
    joined.node.settle()
    assert joined.read_reset(other) == flow.data
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_meets_bytes_that_go_the_other_way(joined: Joined, first: str) -> None:
    """The writer hears of it, and reads what came for it before."""
    one, other = joined.pair(first)
    joined.fill(other, one, 50_000)
    one.send(b"last words")
    joined.node.settle()
    close(one, reset=True)
    assert joined.read_reset(other) == b"last words"
    fails_to_send(joined, other)
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_close_with_unread_bytes_is_a_reset(joined: Joined, first: str) -> None:
    one, other = joined.pair(first)
    other.send(b"never read")
    one.send(b"hello")
    joined.node.settle()
    one.close()
    assert joined.read_reset(other) == b"hello"
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_after_an_end_is_an_end_and_a_reset(joined: Joined, first: str) -> None:
    one, other = joined.pair(first)
    one.send(b"all of it")
    one.shutdown(socket.SHUT_WR)
    assert joined.read_end(other) == b"all of it"
    close(one, reset=True)
    fails_to_send(joined, other)
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_close_ends_one_direction_and_breaks_the_other(joined: Joined, first: str) -> None:
    """What `head` does to who writes into it: an end first, and a reset once more bytes come."""
    one, other = joined.pair(first)
    one.send(b"bye")
    one.close()
    assert joined.read_end(other) == b"bye"
    fails_to_send(joined, other)
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_behind_an_end_that_was_not_read_yet_leaves_it_an_end(joined: Joined, first: str) -> None:
    one, other = joined.pair(first)
    flow = joined.fill(one, other, 50_000 if joined.kind == "direct" else 3 * MIB)
    one.shutdown(socket.SHUT_WR)
    joined.node.until(lambda: not unacknowledged(one))
    joined.node.settle()
    close(one, reset=True)
    joined.node.settle()
    assert joined.read_end(other) == flow.data
    fails_to_send(joined, other)
    joined.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_an_end_that_waits_behind_its_bytes_is_one_though_a_reset_came(proxied: Joined, first: str) -> None:
    """It has closed, which the relay has not read up to; what then comes for it is answered by a reset."""
    one, other = proxied.pair(first)
    sent = proxied.stuff(first)
    one.close()
    other.send(b"nobody reads this")
    proxied.node.settle()
    assert proxied.read_end(other) == sent
    fails_to_send(proxied, other)
    proxied.is_over(f"the {first} reset the connection")


def test_an_end_and_a_reset_together_find_a_backlog(tunnelled: Joined) -> None:
    """The application has not read up to the end when the reset is there already: it is given both, in order."""
    sent = tunnelled.stuff("client")
    near, far = tunnelled.relays
    assert isinstance(near, TunnelRelay) and isinstance(far, TunnelRelay)
    link, stream = tunnelled.hbone.client, near._stream
    link.end_stream(stream)  # the rest will never come
    link._codec.reset(stream, ErrorCode.CONNECT_ERROR)
    tunnelled.node.until(lambda: far._parting)
    assert far._backlog
    got = tunnelled.read_end(tunnelled.server)
    assert 0 < len(got) < len(sent) and sent.startswith(got)


@pytest.mark.parametrize("first", ENDS)
def test_a_reset_that_comes_after_the_look_is_found_by_reading(proxied: Joined, first: str) -> None:
    one, other = proxied.pair(first)
    relay = proxied.relays[0 if first == "client" else -1]
    ends = {"client": "_client", "server": "_server"}
    near = relay if isinstance(relay, TunnelRelay) else getattr(relay, ends[first])
    on_ready = near._on_ready if isinstance(relay, TunnelRelay) else near.on_ready
    close(one, reset=True)
    on_ready(select.EPOLLIN)  # what the kernel would have said a moment before
    assert proxied.read_reset(other) == b""
    proxied.is_over(f"the {first} reset the connection")


@pytest.mark.parametrize("first", ENDS)
def test_an_orderly_end_of_both_is_no_error(joined: Joined, first: str) -> None:
    one, other = joined.pair(first)
    one.send(b"question")
    one.shutdown(socket.SHUT_WR)
    assert joined.read_end(other) == b"question"
    other.send(b"answer")
    other.close()
    assert joined.read_end(one) == b"answer"
    joined.node.until(lambda: len(joined.done) == len(joined.relays))
    assert all((relay.outcome, relay.error) == (Outcome.OK, "") for relay in joined.relays)


def test_both_reset_at_once(joined: Joined) -> None:
    joined.client.send(b"x")
    joined.server.send(b"y")
    joined.node.settle()
    close(joined.client, reset=True)
    close(joined.server, reset=True)
    joined.is_over("reset the connection")


# -- what they would not do by themselves


@pytest.mark.parametrize("first", ENDS)
def test_a_reader_that_sleeps_is_reset_without_the_rest(proxied: Joined, first: str) -> None:
    one, other = proxied.pair(first)
    sent = proxied.stuff(first)
    close(one, reset=True)
    proxied.node.settle()
    assert not proxied.done, "it may still read"
    for _ in range(3):  # a patience for the peer's credit, one for its reader
        proxied.node.skew_s += PATIENCE_S
        proxied.node.settle()
    proxied.is_over(f"the {first} reset the connection")
    got = proxied.read_reset(other)
    assert 0 < len(got) < len(sent) and sent.startswith(got)
    for relay in proxied.relays:
        carried = relay.sent_bytes if first == "client" else relay.received_bytes
        assert len(got) <= carried < len(sent)


def test_a_slow_reader_that_goes_on_is_waited_for(proxied: Joined) -> None:
    sent = proxied.stuff("client")
    close(proxied.client, reset=True)
    got = bytearray()

    def step() -> bool:
        proxied.node.skew_s += PATIENCE_S / 8
        return take_into(proxied.server, got)

    with pytest.raises(ConnectionResetError):
        proxied.node.until(step)
    assert got == sent


def test_a_cut_does_not_wait_for_a_reset_that_does(proxied: Joined) -> None:
    proxied.fill(proxied.client, proxied.server, 3 * MIB)
    close(proxied.client, reset=True)
    proxied.node.until(lambda: proxied.relays[-1]._parting)
    proxied.relays[-1].abort(Outcome.POLICY_CHANGED, "denied")
    proxied.node.until(lambda: proxied.relays[-1] in proxied.done)
    assert "the client reset" in proxied.relays[-1].error, "that came first"
    assert len(proxied.read_reset(proxied.server)) < 3 * MIB


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
