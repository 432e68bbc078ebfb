"""How connections end: as they would without a proxy, so everything about applications is held against direct TCP.

Each shape runs over a plain TCP connection (what the kernel does by itself), over two sockets that are relayed to each
other, and over two relays with a tunnel between them.
"""

from __future__ import annotations

import select
import socket

import pytest

from agent.model.outcome import Outcome
from agent.net.farewell import close
from agent.net.parting import PATIENCE_S, unacknowledged
from agent.net.relay import TunnelRelay
from agent.wire.h2_events import MIB
from agent.wire.h2_frames import ErrorCode
from tests.support.joined import ENDS, Joined
from tests.support.traffic import take_into


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
    near, far = tunnelled.relays
    assert isinstance(near, TunnelRelay) and isinstance(far, TunnelRelay)
    # Queues of a size that is set do not grow: the window is more than they take, and the relay holds the rest.
    tunnelled.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    far._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    sent = tunnelled.stuff("client")
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
