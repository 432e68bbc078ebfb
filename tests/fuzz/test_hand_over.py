"""Connections that are handed over at any byte: everything arrives in order, ends are ends, and credit is exact.

Two links in one loop, their ciphertext carried between them a few bytes at a time, so that records and frames lie cut
wherever they may be, and small kernel buffers, so that sealed bytes and backlogs wait everywhere.
"""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.identity.handshake import Session
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.net.byte_stream import SocketStream
from agent.net.plain_relay import PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.tunnel import Tunnel
from agent.net.tunnel_link import TunnelLink
from agent.wire.h2_events import Limits
from agent.wire.hbone import ConnectHead, connect_head
from agent.wire.tls_records import HANDSHAKE, KEY_UPDATE
from tests.support.handed_over import Handed, plain_handed_over
from tests.support.netpair import CLIENT, SERVER, Ended, Node, node

ENDS = ("client", "server")
SIZES = st.sampled_from([1, 9, 22, 16406, 30_000, 200_000]) | st.integers(1, 60_000)
LIMITS = {
    "client": Limits(stream_window_bytes=1 << 19, connection_window_bytes=1 << 20),
    "server": Limits(stream_window_bytes=1 << 19, connection_window_bytes=1 << 20, peer_streams=3),
}
LOWERED = {
    "client": Limits(stream_window_bytes=65535, connection_window_bytes=65535, frame_bytes=16384),
    "server": Limits(
        stream_window_bytes=65535, connection_window_bytes=65535, frame_bytes=16384, peer_streams=3
    ),
}
"""Of a successor whose options are less: what the peer was told holds."""


def pair(it: Node, sends: int, takes: int) -> tuple[socket.socket, socket.socket]:
    """Two ends, with the room that the kernel has for what each of them sends."""
    one, two = socket.socketpair()
    for sock in (one, two):
        sock.setblocking(False)
        sock.bind("")  # to a name of the kernel's choice: who leaves bytes unread is told by address
        it.keep(sock)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sends)
    two.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, takes)
    return one, two


class Application:
    """One end of what is carried: sends bytes of its own, and has what came."""

    def __init__(self, sock: socket.socket, seed: int) -> None:
        self.sock = sock
        self._rng = random.Random(seed)
        self.sent = bytearray()
        self.got = bytearray()
        self.has_ended = self.is_told_end = False

    def send(self, size: int) -> None:
        if not self.has_ended:
            data = self._rng.randbytes(size)
            with contextlib.suppress(BlockingIOError):
                self.sent += data[: self.sock.send(data)]

    def read(self, size: int) -> None:
        with contextlib.suppress(BlockingIOError):
            piece = self.sock.recv(size)
            self.got += piece
            self.is_told_end = self.is_told_end or not piece

    def end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.sock.shutdown(socket.SHUT_WR)


class Talk:
    """One tunnel with its two applications and relays, by who dialled and who was reached."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.near: dict[str, socket.socket] = {}
        self.apps: dict[str, Application] = {}
        for end in ENDS:
            sock, self.near[end] = pair(world.it, 1 << 17, 4096)
            self.apps[end] = Application(sock, 2 * number + (end == "server"))
        self.tunnels: dict[str, Tunnel] = {}
        self.relays: dict[str, TunnelRelay] = {}

    def answered(self, tunnel: Tunnel, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        assert status == 200 and headers == (("number", str(self.number)),)
        self.carry("client", tunnel)

    def gone(self, tunnel: Tunnel) -> None:
        raise AssertionError(f"tunnel {self.number} is gone: {tunnel.failure}")

    def accept(self) -> None:
        tunnel = self.tunnels["server"]
        tunnel.accept([("number", str(self.number))])
        self.carry("server", tunnel)

    def carry(self, end: str, tunnel: Tunnel) -> None:
        relay = self.relays[end] = TunnelRelay(self.world.it.loop, self.near[end], tunnel, self.world.done)
        relay.start()


@dataclass
class World:
    it: Node
    talks: list[Talk] = field(default_factory=list)
    done: Ended[TunnelRelay] = field(default_factory=Ended)
    ends: list[tuple[Outcome, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        near, self.client_wire = pair(self.it, 8192, 8192)
        far, self.server_wire = pair(self.it, 8192, 8192)
        self.under_way = {"client": bytearray(), "server": bytearray()}
        """What was read from one end's socket and not written to the other's."""
        sessions = {"client": Session.client(CLIENT, (SERVER.identity,)), "server": Session.server(SERVER)}
        self.links = {
            end: TunnelLink.fresh(
                self.it.loop, SocketStream(self.it.loop, sock), sessions[end], self, limits=LIMITS[end]
            )
            for end, sock in (("client", near), ("server", far))
        }
        for link in self.links.values():
            link.start()
        self.it.until(lambda: self.carry_all() and all(link.peer for link in self.links.values()))

    # -- told by the links

    def authenticated(self, link: TunnelLink, peer: Identity | None) -> None: ...

    def available(self, link: TunnelLink) -> None: ...

    def requested(self, link: TunnelLink, tunnel: Tunnel, head: ConnectHead) -> None:
        talk = self.talks[head.port - 1]
        assert head.headers == (("note", str(head.port)),)
        talk.tunnels["server"] = tunnel
        tunnel.owner = talk

    def closed(self, link: TunnelLink, outcome: Outcome, detail: str) -> None:
        self.ends.append((outcome, detail))

    # -- the path between them

    def carry(self, end: str, size: int) -> None:
        """So many bytes of ciphertext from one end towards the other, as far as there are, and room for them."""
        source, sink = self.client_wire, self.server_wire
        if end == "server":
            source, sink = sink, source
        waiting = self.under_way[end]
        with contextlib.suppress(BlockingIOError):
            if len(waiting) < size:
                waiting += source.recv(size - len(waiting))
        with contextlib.suppress(BlockingIOError):
            del waiting[: sink.send(waiting[:size])]

    def carry_all(self) -> bool:
        for end in ENDS:
            self.carry(end, 1 << 20)
        return True

    # -- actions

    def do_open(self, end: str, which: int, size: int) -> None:
        if len(self.talks) < 8:
            number = len(self.talks) + 1
            talk = Talk(self, number)
            self.talks.append(talk)
            head = connect_head(f"10.0.0.1:{number}", [("note", str(number))])
            talk.tunnels["client"] = self.links["client"].open(head, talk)

    def do_answer(self, end: str, which: int, size: int) -> None:
        waiting = [talk for talk in self.talks if "server" in talk.tunnels and "server" not in talk.relays]
        if waiting:
            waiting[which % len(waiting)].accept()

    def do_send(self, end: str, which: int, size: int) -> None:
        if self.talks:
            self.talks[which % len(self.talks)].apps[end].send(size)

    def do_read(self, end: str, which: int, size: int) -> None:
        if self.talks:
            self.talks[which % len(self.talks)].apps[end].read(size)

    def do_end(self, end: str, which: int, size: int) -> None:
        if self.talks and which == 3:
            self.talks[size % len(self.talks)].apps[end].end()

    def do_carry(self, end: str, which: int, size: int) -> None:
        self.carry(end, size)

    def do_new_key(self, end: str, which: int, size: int) -> None:
        """The peer of `end` is asked for a new key, and gets one."""
        if which == 3:
            link = self.links[end]
            records = link.tls._records
            assert records is not None
            link.tls._unsent += records._seal_one(bytes((KEY_UPDATE, 0, 0, 1, 1, HANDSHAKE)))
            records._write = records._write.successor()
            link.tls._watch_room()

    def do_move(self, end: str, which: int, size: int) -> None:
        self.it.stop_clock()
        relays = [talk.relays[end] for talk in self.talks if end in talk.relays]
        relays = [relay for relay in relays if relay not in self.done]
        limits = (LOWERED if which % 2 else LIMITS)[end]
        handed = Handed(self.it, self.links[end], relays, self, self.done, limits)
        self.links[end] = handed.link
        for talk in self.talks:
            if talk.tunnels.get(end) in handed.tunnels and end not in talk.relays:
                tunnel = talk.tunnels[end] = handed.tunnels[talk.tunnels[end]]
                if end == "server":
                    tunnel.owner = talk
                else:
                    tunnel.asker = talk
            if (relay := talk.relays.get(end)) in handed.relays:
                assert relay is not None
                talk.relays[end] = handed.relays[relay]
        self.it.start_clock()
        handed.start()

    # -- in the end

    def is_quiet(self) -> bool:
        """One turn of everything, and whether nothing came of it."""
        before = [len(app.got) for talk in self.talks for app in talk.apps.values()]
        for talk in self.talks:
            if "server" in talk.tunnels and "server" not in talk.relays:
                talk.accept()
            for app in talk.apps.values():
                app.read(1 << 20)
        self.carry_all()
        self.it.loop.turn(0.0)
        after = [len(app.got) for talk in self.talks for app in talk.apps.values()]
        return before == after

    def settle(self) -> None:
        quiet = 0
        while quiet < 30:
            quiet = quiet + 1 if self.is_quiet() else 0
        assert not self.it.errors, self.it.errors
        assert not self.ends, self.ends

    def check_credit(self) -> None:
        """Nothing is under way, and everything was read: the books of both ends agree to the byte."""
        for end in ENDS:
            sender, receiver = (
                self.links[end]._codec,
                self.links["server" if end == "client" else "client"]._codec,
            )
            assert sender.send_window == receiver.receive_window
            assert receiver.unread_bytes == receiver._data_left == 0
            assert receiver._grown == sum(
                s.window - receiver._first_window for s in receiver.streams.values()
            )
            for stream in sender.streams.values():
                if stream.local_open:
                    theirs = receiver.streams[stream.id]
                    assert stream.send_window == theirs.receive_window
                    assert theirs.receive_window + theirs.unreturned == theirs.window
        assert self.it.loop.backlogs.total_bytes == 0

    def check_bytes(self) -> None:
        """Of tunnels that had a place."""
        for talk in [talk for talk in self.talks if len(talk.relays) == 2]:
            one, two = talk.apps["client"], talk.apps["server"]
            assert one.got == two.sent and two.got == one.sent
            assert (one.is_told_end, two.is_told_end) == (two.has_ended, one.has_ended)
            for relay in talk.relays.values():
                assert (relay.sent_bytes, relay.received_bytes) == (len(one.sent), len(two.sent))


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "open",
                "answer",
                "send",
                "send",
                "send",
                "read",
                "end",
                "carry",
                "carry",
                "new_key",
                "move",
                "move",
            ]
        ),
        st.sampled_from(ENDS),
        st.integers(0, 3),
        SIZES,
    ),
    min_size=10,
    max_size=80,
)


@settings(max_examples=60)
@given(ACTIONS)
def test_links_that_are_handed_over_at_any_byte_lose_nothing(
    actions: list[tuple[str, str, int, int]],
) -> None:
    with node() as it:
        world = World(it)
        world.do_open("client", 0, 0)
        for action, end, which, size in actions:
            getattr(world, f"do_{action}")(end, which, size)
            it.loop.turn(0.0)
        world.settle()
        world.check_credit()
        world.check_bytes()
        for talk in world.talks:
            for app in talk.apps.values():
                app.end()
        world.settle()
        world.check_bytes()
        assert all(len(talk.relays) == 2 for talk in world.talks) and len(world.done) == 2 * len(world.talks)
        assert all((relay.outcome, relay.error) == (Outcome.OK, "") for relay in world.done)
        assert not any(link._codec.streams for link in world.links.values())


PLAIN_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "read", "end", "move", "move"]), st.sampled_from(ENDS), SIZES),
    min_size=5,
    max_size=60,
)


@settings(max_examples=80)
@given(PLAIN_ACTIONS)
def test_plain_relays_that_are_handed_over_at_any_byte_lose_nothing(
    actions: list[tuple[str, str, int]],
) -> None:
    with node() as it:
        done = Ended[PlainRelay]()
        one, near = pair(it, 1 << 17, 4096)
        two, far = pair(it, 1 << 17, 4096)
        apps = {"client": Application(one, 1), "server": Application(two, 2)}
        relay = PlainRelay(it.loop, near, far, done)
        relay.start()
        for action, end, size in actions:
            if action == "move":
                if relay not in done and not relay.is_over:
                    relay = plain_handed_over(it, relay, done)
            elif action == "end":
                if size % 4 == 0:
                    apps[end].end()
            else:
                getattr(apps[end], action)(size)
            it.loop.turn(0.0)
        for app in apps.values():
            app.end()
        it.until(lambda: [app.read(1 << 20) for app in apps.values()] and relay in done)
        for app in apps.values():
            app.read(1 << 20)
            app.read(1)
        client, server = apps["client"], apps["server"]
        assert client.got == server.sent and server.got == client.sent
        assert client.is_told_end and server.is_told_end
        assert (relay.sent_bytes, relay.received_bytes) == (len(client.sent), len(server.sent))
        assert (relay.outcome, relay.error) == (Outcome.OK, "") and it.loop.backlogs.total_bytes == 0
