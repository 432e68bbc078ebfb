"""What goes on elsewhere: what waits goes along, what stays says why, nothing is taken on trust, and nothing leaks."""

from __future__ import annotations

import contextlib
import copy
import errno
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.identity.presented import Check, is_client_of
from agent.identity.revocations import certified
from agent.model.address import SocketAddress
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.model.unit import BadUnit, PlainValue, State
from agent.net.dial import Dialler
from agent.net.farewell import close
from agent.net.parting import PATIENCE_S
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.sockets import SideSockets
from agent.net.tunnel_link import TunnelLink
from agent.net.tunnel_stream import TunnelStream
from agent.wire.h2_events import MIB, Limits
from tests.support.descriptors import open_descriptors
from tests.support.handed_over import Handed, anybody, dial_handed_over
from tests.support.netpair import HEAD, SERVER, Ended, Hbone, Node, Relayed, deaf, node, tcp_pair
from tests.support.traffic import Flow

LOCAL = IPv4Address("127.0.0.1")


def move_server(hbone: Hbone, *relays: TunnelRelay, done: Ended[TunnelRelay] | None = None) -> Handed:
    """The server's end goes on elsewhere, its relays with it; the clock stands still meanwhile."""
    hbone.node.stop_clock()
    handed = Handed(hbone.node, hbone.server, relays, hbone.server_side, Ended() if done is None else done)
    hbone.server = handed.link
    hbone.node.start_clock()
    return handed


def move_client(hbone: Hbone, *relays: TunnelRelay, done: Ended[TunnelRelay] | None = None) -> Handed:
    hbone.node.stop_clock()
    handed = Handed(hbone.node, hbone.client, relays, hbone.client_side, Ended() if done is None else done)
    hbone.client = handed.link
    hbone.node.start_clock()
    return handed


def narrow(hbone: Hbone) -> Relayed:
    """A relayed connection whose server's application has little room in the kernel: the rest waits here."""
    relayed = hbone.relayed()
    relayed.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    relayed.server_relay.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    return relayed


# -- what waits goes along


def test_a_request_that_waits_for_its_answer_and_one_that_waits_for_a_place_are_answered() -> None:
    with node() as it:
        hbone = Hbone(it, streams_limit=1)
        asked, queued = hbone.ask(), hbone.ask()
        it.until(lambda: hbone.server_side.requests)
        handed = move_client(hbone)
        again = [handed.tunnels[asked], handed.tunnels[queued]]
        for tunnel in again:
            tunnel.asker = hbone
        handed.start()
        (theirs, _), *_ = hbone.server_side.requests
        handed = move_server(hbone)
        handed.start()
        handed.tunnels[theirs].refuse(403)
        it.until(lambda: len(hbone.server_side.requests) == 2)
        hbone.server_side.requests[1][0].accept()
        it.until(lambda: len(hbone.answers) == 2)
        assert [(tunnel, status) for tunnel, status, _ in hbone.answers] == [(again[0], 403), (again[1], 200)]
        assert again[1].head == HEAD


def test_bytes_that_came_before_there_is_a_relay_are_delivered_by_the_next_one_with_their_end() -> None:
    with node() as it:
        hbone = Hbone(it)
        outer = hbone.ask()
        it.until(lambda: hbone.server_side.requests)
        app, near = tcp_pair()
        assert outer.stream is not None
        hbone.client._codec.out += b"\0\0\5\0\1" + outer.stream.id.to_bytes(4, "big") + b"early"
        hbone.client.stage.flush_soon()
        it.until(lambda: it.loop.backlogs.total_bytes == 5)
        inner = hbone.server_side.requests[0][0]
        handed = move_server(hbone)
        assert it.loop.backlogs.total_bytes == 0
        handed.start()
        assert it.loop.backlogs.total_bytes == 5
        inner = handed.tunnels[inner]
        inner.accept()
        relay = TunnelRelay(it.loop, it.keep(near), inner, Ended())
        relay.start()
        hbone.server = handed.link
        it.keep(app).settimeout(5)
        it.settle()
        assert app.recv(10) == b"early" and app.recv(10) == b"" and it.loop.backlogs.total_bytes == 0


def test_a_link_whose_successor_allows_less_goes_on_with_what_its_peer_was_told() -> None:
    """Windows that are full, and a frame that is cut: the peer sends on by what it knows, every byte arrives, and the
    books of both agree."""
    with node() as it:
        hbone = Hbone(it)
        relayed = narrow(hbone)
        flow = Flow(relayed.client, relayed.server, 6 * MIB, 1, ends=False)
        (stream,) = hbone.client._codec.streams.values()
        it.until(lambda: flow.push() is None and stream.send_window <= 0)
        least = Limits(65535, 65535, 16384, header_list_bytes=65536, peer_streams=200)
        it.stop_clock()
        handed = Handed(it, hbone.server, [relayed.server_relay], hbone.server_side, relayed.done, least)
        it.start_clock()
        handed.start()
        it.until(lambda: flow.step() or len(flow.got) == len(flow.data))
        it.settle()
        assert flow.got == flow.data and not relayed.done
        sender, receiver = hbone.client._codec, handed.link._codec
        (theirs,) = receiver.streams.values()
        assert stream.send_window == theirs.receive_window == theirs.window - theirs.unreturned
        assert sender.send_window == receiver.receive_window and receiver.unread_bytes == 0


def test_a_backlog_that_outlives_its_stream_is_delivered() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = narrow(hbone)
        flow = Flow(relayed.client, relayed.server, 2 * MIB, 1)
        relayed.server.shutdown(socket.SHUT_WR)
        codec = hbone.server._codec

        def is_over() -> bool:
            """Of what waits for the application as little is read as lets the end come behind it."""
            flow.push()
            if len(relayed.server_relay._backlog) > MIB // 8:
                with contextlib.suppress(BlockingIOError):
                    flow.got += relayed.server.recv(1 << 16)
            return not codec.streams

        it.until(is_over)
        assert relayed.server_relay._backlog and not relayed.done.count(relayed.server_relay)
        handed = move_server(hbone, relayed.server_relay, done=relayed.done)
        relay = handed.relays[relayed.server_relay]
        handed.start()
        it.until(lambda: flow.step() and relay in relayed.done)
        assert flow.got == flow.data and (relay.outcome, relay.error) == (Outcome.OK, "")
        assert it.loop.backlogs.total_bytes == 0


def broken(hbone: Hbone) -> tuple[Relayed, Flow, TunnelRelay]:
    """An application has reset its connection, much of what it had sent waits for a reader, and the client's end has
    gone on elsewhere when half of the patience for that was used up; its relay there."""
    relayed = narrow(hbone)
    flow = Flow(relayed.client, relayed.server, 8 * MIB, 1, ends=False)
    for _ in range(300):
        flow.push()
        hbone.node.loop.turn(0.001)
    assert relayed.client_relay._is_waiting
    close(relayed.client, reset=True)
    hbone.node.until(lambda: relayed.client_relay._lost)
    hbone.node.skew_s += PATIENCE_S / 2
    handed = move_client(hbone, relayed.client_relay, done=relayed.done)
    handed.start()
    return relayed, flow, handed.relays[relayed.client_relay]


def test_what_an_application_sent_before_it_broke_is_carried_and_then_its_reset() -> None:
    with node() as it:
        relayed, flow, relay = broken(Hbone(it))
        carried = relay.sent_bytes
        got = relayed.read_reset(relayed.server)
        it.until(lambda: relay in relayed.done)
        assert relay.outcome is Outcome.RESET
        assert len(got) == relay.sent_bytes > carried and got == flow.data[: len(got)]


def test_an_application_that_broke_is_waited_for_no_longer_than_it_would_have_been() -> None:
    with node() as it:
        relayed, _, relay = broken(Hbone(it))
        it.settle()
        assert relay not in relayed.done
        it.skew_s += PATIENCE_S / 2
        it.settle()
        assert relay in relayed.done


def test_one_that_is_being_told_of_a_reset_stays_and_its_connection_goes_on_without_it() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed, other = narrow(hbone), hbone.relayed()
        flow = Flow(relayed.client, relayed.server, 8 * MIB, 1, ends=False)
        for _ in range(300):
            flow.push()
            it.loop.turn(0.001)
        relayed.client_relay.abort()
        it.until(lambda: relayed.server_relay.stays)
        held = it.loop.backlogs.total_bytes
        handed = move_server(hbone, relayed.server_relay, other.server_relay, done=relayed.done)
        assert held and relayed.server_relay not in handed.relays
        handed.start()
        assert it.loop.backlogs.total_bytes == held
        relayed.read_reset(relayed.server)
        other.client.send(b"still here")
        assert other.read(other.server, 10) == b"still here"
        it.settle()
        assert hbone.server.standstill.unread_bytes == it.loop.backlogs.total_bytes == 0


def test_a_goodbye_that_was_begun_is_finished() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        hbone.server.go_away()
        hbone.server.stage.flush()
        handed = move_server(hbone, relayed.server_relay, done=relayed.done)
        handed.start()
        it.until(lambda: not hbone.client.is_usable and not hbone.server._codec._closes_door)
        relayed.client.send(b"one more")
        assert relayed.read(relayed.server, 8) == b"one more"
        relayed.client.close()
        relayed.server.close()
        it.until(lambda: hbone.server_side.ends and hbone.client_side.ends)
        assert hbone.server_side.ends[0][0] is Outcome.OK


def test_one_whose_last_tunnel_has_ended_meanwhile_closes() -> None:
    with node() as it:
        hbone = Hbone(it)
        tunnel, _ = hbone.tunnel()
        hbone.client.go_away()
        tunnel.reset()
        handed = move_client(hbone)
        handed.start()
        it.until(lambda: hbone.client_side.ends and hbone.server_side.ends)
        assert hbone.client_side.ends[0][0] is Outcome.OK


def test_a_peer_that_owes_an_answer_to_a_ping_is_lost_when_it_would_have_been() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        assert hbone.server.freeze()  # and so says nothing more
        it.stop_clock()
        for wait_s in (10.01, 6.0, 6.0, 7.9):  # the ping goes out, and 20 s are for its answer
            it.skew_s += wait_s
            it.loop.turn(0.0)
            handed = Handed(it, hbone.client, [], hbone.client_side, Ended())
            hbone.client = handed.link
            handed.start()
            it.loop.turn(0.0)
            assert not hbone.client_side.ends
        it.skew_s += 0.2
        it.loop.turn(0.0)
        assert hbone.client_side.ends[0][0] is Outcome.H2_FAILED and "PING" in hbone.client_side.ends[0][1]


def test_the_peer_sees_nothing_of_it_and_the_old_one_does_nothing_more() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        before = hbone.server
        relay = relayed.server_relay
        count = open_descriptors()
        handed = move_server(hbone, relay, done=relayed.done)
        assert open_descriptors() == count, "as many as before: each was copied, and the old one closed"
        handed.start()
        before.abort(Outcome.POLICY_CHANGED, "too late")
        before.go_away("too late")
        relay.abort(Outcome.POLICY_CHANGED, "too late")
        before.stage.flush()
        it.settle()
        relayed.client.send(b"hello")
        assert relayed.read(relayed.server, 5) == b"hello"
        assert not hbone.server_side.ends and not hbone.client_side.ends and not relayed.done


def test_one_that_nobody_takes_goes_on_here_from_the_same_state_and_the_same_sockets() -> None:
    with node() as it:
        hbone = Hbone(it)
        relayed = hbone.relayed()
        assert hbone.server.freeze()
        relayed.server_relay.freeze()
        told, relay_told = hbone.server.state(), relayed.server_relay.state()
        link = TunnelLink.from_state(
            it.loop,
            told,
            hbone.server.sock,
            hbone.server_side,
            is_server=True,
            check=is_client_of(SERVER.identity),
            wants_chain=False,
            group="",
        )
        relay = TunnelRelay.from_state(it.loop, relay_told, relayed.server_relay.sock, link, relayed.done)
        link.start()
        relay.start()
        relayed.client.send(b"hello")
        assert relayed.read(relayed.server, 5) == b"hello"
        assert (link.peer, link.secured) != (None, None) and str(link.peer) == str(hbone.server.peer)


def test_what_the_handshake_found_out_is_known() -> None:
    with node() as it:
        hbone = Hbone(it)
        hbone.tunnel()
        before = hbone.server.secured
        assert before is not None
        chain = (certified(before.peer_der), certified(before.peer_der))
        before = hbone.server.tls._secured = replace(before, chain=chain)
        after = move_server(hbone).link.secured
        assert after is not None
        for name in ("suite", "group", "peer", "peer_der", "chain"):
            assert getattr(after, name) == getattr(before, name) != ""


# -- what stays


def test_a_handshake_that_is_under_way_stays() -> None:
    with node() as it:
        assert "handshake" in Hbone(it).server.stays


def test_a_connection_in_a_tunnel_stays() -> None:
    with node() as it:
        outer, _ = Hbone(it).tunnel()
        inner = Hbone(it)
        it.until(lambda: inner.client.peer)
        inner.client.tls._stream = TunnelStream(it.loop, outer)
        assert "tunnel" in inner.client.stays


def test_a_plain_relay_one_of_whose_ends_broke_stays() -> None:
    with node() as it:
        one, near = tcp_pair()
        two, far = tcp_pair()
        for sock in (one, near, two, far):
            it.keep(sock)
        relay = PlainRelay(it.loop, near, far, Ended())
        relay.start()
        Flow(one, two, 12 * MIB, 1).push()
        it.settle()
        assert not relay.stays
        close(one, reset=True)
        it.until(lambda: relay.stays)


# -- a dial under way


class Dialled:
    def __init__(self) -> None:
        self.socks: list[socket.socket] = []
        self.errors: list[OSError] = []

    def connected(self, sock: socket.socket) -> None:
        self.socks.append(sock)

    def failed(self, target: SocketAddress, error: OSError) -> None:
        self.errors.append(error)


@pytest.fixture
def dialler() -> Iterator[tuple[Node, Dialler]]:
    with node() as it:
        sockets = SideSockets(None)
        it.closing.callback(sockets.close)
        yield it, Dialler(it.loop, sockets, lambda: random.randint(20_000, 30_000), 10.0)


def test_a_dial_goes_on_and_is_answered(dialler: tuple[Node, Dialler]) -> None:
    it, dials = dialler
    dialled = Dialled()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = SocketAddress.from_sockname(listener.getsockname())
        dial = dials.dial(target, SocketAddress(LOCAL, 0), dialled)
        dial_handed_over(it, dials, dial, dialled)
        it.until(lambda: dialled.socks)
        assert it.keep(dialled.socks[0]).getpeername() == listener.getsockname()
        assert not dialled.socks[0].getblocking()
        it.loop.forget(dialled.socks[0].fileno())


def test_a_dial_times_out_when_it_would_have(dialler: tuple[Node, Dialler]) -> None:
    it, dials = dialler
    dialled = Dialled()
    with deaf("127.0.0.1") as target, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        it.stop_clock()
        dial = dials.dial(target, SocketAddress(LOCAL, other.getsockname()[1]), dialled)
        assert dial.state()["tries"] == 1, "the client's own port is taken"
        for _ in range(3):
            it.skew_s += 3.0
            dial = dial_handed_over(it, dials, dial, dialled)
        assert dial.left_s == pytest.approx(1.0)
        it.loop.turn(0.0)
        assert not dialled.errors
        it.skew_s += 1.01
        it.start_clock()
        it.until(lambda: dialled.errors)
    assert dialled.errors[0].errno == errno.ETIMEDOUT and not dialled.socks


# -- nothing is taken on trust


def paths(
    value: PlainValue, at: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], PlainValue]]:
    """Every value in a state, with where it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*at, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from paths(item, (*at, number))
    yield at, value


def changed(state: PlainValue, at: tuple[str | int, ...], value: PlainValue) -> PlainValue:
    if not at:
        return value
    made = copy.copy(state)
    made[at[0]] = changed(made[at[0]], at[1:], value)  # type: ignore[index]
    return made


def without(state: PlainValue, at: tuple[str | int, ...]) -> PlainValue:
    made = copy.copy(state)
    if len(at) == 1:
        del made[at[0]]  # type: ignore[union-attr]
    else:
        made[at[0]] = without(made[at[0]], at[1:])  # type: ignore[index]
    return made


class Taken:
    """A link with a relay, a request and a broken application, as they were told; `take` builds them anew."""

    def __init__(self, it: Node) -> None:
        self.it = it
        self.hbone = Hbone(it)
        relayed = Relayed(self.hbone, *self.hbone.tunnel())
        self.hbone.server_side.on_request = lambda tunnel: None
        self.hbone.ask()
        it.until(lambda: self.hbone.server.open_streams == 2)
        relayed.server.send(b"x")
        it.settle()
        self.relay = relayed.server_relay
        self.relay._lose(errno.ECONNRESET)
        assert self.hbone.server.freeze()
        self.relay.freeze()
        self.state: State = {"link": self.hbone.server.state(), "relay": self.relay.state()}

    def link(
        self,
        state: PlainValue,
        *,
        limits: Limits | None = None,
        check: Check = anybody,
        wants_chain: bool = False,
    ) -> TunnelLink:
        sock, events = self.hbone.server.sock, self.hbone.server_side
        return TunnelLink.from_state(
            self.it.loop,
            state,
            sock,
            events,
            is_server=True,
            check=check,
            wants_chain=wants_chain,
            group="",
            limits=limits,
        )

    def take(self, state: PlainValue) -> None:
        assert isinstance(state, dict)
        link = self.link(state["link"])
        TunnelRelay.from_state(self.it.loop, state["relay"], self.relay.sock, link, Ended())


def test_whatever_is_unknown_missing_or_of_another_type_is_refused_and_leaves_nothing_behind() -> None:
    with node() as it:
        taken = Taken(it)
        taken.take(taken.state)
        count, timers = open_descriptors(), len(it.loop._timers)
        tried = 0
        for at, value in paths(taken.state):
            if not at:
                continue
            wrong: list[PlainValue] = [
                changed(taken.state, at, [b""] if isinstance(value, dict) else {"a": 1})
            ]
            if isinstance(value, dict):
                wrong.append(changed(taken.state, at, {**value, "more": 1}))
            if isinstance(at[-1], str) and len(at) > 1:
                wrong.append(without(taken.state, at))
            for state in wrong:
                tried += 1
                with pytest.raises(BadUnit):
                    taken.take(state)
        assert tried > 150
        assert open_descriptors() == count and len(it.loop._timers) == timers
        taken.take(taken.state)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("link", "tls", "secured", "peer_der"), b"no certificate"),
        (("link", "tls", "secured", "chain"), [b"no certificate"]),
        (("link", "tls", "secured", "records", "suite"), "TLS_NULL_WITH_NULL_NULL"),
        (("link", "tls", "held"), bytes(1 << 16)),
        (("link", "tls", "unsent"), bytes(5 << 20)),
        (("link", "tunnels", 0, "authority"), "nowhere"),
        (("link", "tunnels", 0, "headers"), ["odd"]),
        (("link", "tunnels", 0, "stream"), 99),
        (("link", "tunnels", 1, "stream"), 1),
        (("relay", "stream"), 3_000),
        (("relay", "lost", "left_s"), PATIENCE_S + 1),
        (("relay", "backlog"), bytes(5 << 20)),
    ],
)
def test_what_cannot_be_is_refused(at: tuple[str | int, ...], value: PlainValue) -> None:
    with node() as it:
        taken = Taken(it)
        with pytest.raises(BadUnit):
            taken.take(changed(taken.state, at, value))


def test_a_peer_that_was_allowed_more_than_anybody_may_allow_is_refused() -> None:
    with node() as it:
        taken = Taken(it)
        beyond = changed(taken.state["link"], ("http2", "limits", "connection_window_bytes"), 1 << 31)
        with pytest.raises(BadUnit, match="connection_window_bytes"):
            taken.link(beyond)


def test_a_peer_that_would_not_be_welcome_or_could_not_be_revoked_is_refused() -> None:
    with node() as it:
        taken = Taken(it)
        stranger = Identity.parse("spiffe://elsewhere.example/ns/a/sa/b")
        with pytest.raises(BadUnit, match="trust domain"):
            taken.link(taken.state["link"], check=is_client_of(stranger))
        with pytest.raises(BadUnit, match="revoked"):
            taken.link(taken.state["link"], wants_chain=True)
        taken.link(taken.state["link"], check=is_client_of(SERVER.identity))


def test_two_relays_on_one_stream_are_refused() -> None:
    with node() as it:
        taken = Taken(it)
        link = taken.link(taken.state["link"])
        TunnelRelay.from_state(it.loop, taken.state["relay"], taken.relay.sock, link, Ended())
        with pytest.raises(BadUnit, match="something else carries"):
            TunnelRelay.from_state(it.loop, taken.state["relay"], taken.relay.sock, link, Ended())


def test_secrets_are_in_no_repr() -> None:
    with node() as it:
        taken = Taken(it)
        records = taken.hbone.server.tls._records
        assert records is not None
        secret = records.state().read_secret
        secured = taken.hbone.server.secured
        assert repr(secret) not in repr(secured) and secret.hex() not in repr(secured)
