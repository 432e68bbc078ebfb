"""The gate in front of a listener, between two real data planes: what it sends for a held SYN, and what it lets go.

Frames go to a list in place of a device. What the kernel would make of one that is let in is handed over by the test:
a connection that the listener has accepted.
"""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.policy import Action, Match, StringMatch, StringMatchKind
from agent.net.loop import Loop
from agent.proxy import gate as gates
from agent.proxy.gate import HELD_OF_POD, JOIN_S, Fate, Gate
from agent.proxy.inbound_plain import PlainConnection
from agent.proxy.outbound import OutboundConnection
from agent.wire import held_syn
from agent.wire.held_syn import FROM_POD, RECORD, TO_POD, HeldSyn
from tests.support import mesh
from tests.support import packets as pk
from tests.support.datapath import stream_pair
from tests.support.descriptors import open_descriptors
from tests.support.frames import IP4_AT, Frames
from tests.support.loopback import ours
from tests.support.netpair import deaf
from tests.support.packets import TCP
from tests.support.two_nodes import CLIENT, SERVER, VIP, Broken, World

STRANGER, DEAF = ours("5.5"), ours("4.1")
NOBODY = Match(principals=(StringMatch(StringMatchKind.EXACT, "nobody"),))


class Held:
    """A world with a gate in front of the client's listener, or of the server's for plaintext."""

    def __init__(self, world: World, hook: int = FROM_POD) -> None:
        self.world, self.hook, self.frames = world, hook, Frames()
        loop: Loop = world.driver.loop
        if hook == FROM_POD:
            outbound = world.here.outbound
            self.gate = Gate(
                loop,
                Direction.OUTBOUND,
                self.frames,
                lambda *each: OutboundConnection(outbound, *each),
                outbound.accepted,
            )
        else:
            inbound = world.there.inbound_plain
            self.gate = Gate(
                loop,
                Direction.INBOUND,
                self.frames,
                lambda *each: PlainConnection(inbound, *each),
                inbound.accepted,
            )

    def syn(self, to: str = f"{SERVER}:8080", port: int = 40000, sequence: int = 1) -> HeldSyn:
        source = CLIENT if self.hook == FROM_POD else STRANGER
        host, dport = to.rsplit(":", 1)
        segment = bytearray(pk.tcp(port, int(dport)))
        segment[4:8] = sequence.to_bytes(4, "big")
        frame = pk.ip(source, host, TCP, bytes(segment))
        record = RECORD.pack(time.monotonic_ns(), 1, self.hook, IP4_AT, len(frame), frame)
        return held_syn.read(record)

    def arrive(self, *syns: HeldSyn, owner: int = 0) -> None:
        self.world.driver.call(lambda: [self.gate.arrived(owner, syn) for syn in syns])

    def until(self, fate: Fate, count: int = 1) -> None:
        self.world.driver.until(lambda: self.gate.fates[fate] == count)

    def until_let_in(self, *sequences: int) -> None:
        self.world.driver.until(lambda: self.frames.let_in() == list(sequences))

    def accept(self, syn: HeldSyn) -> socket.socket:
        """The listener has accepted it; the application's end."""
        application, captured = stream_pair(str(syn.peer.ip))
        captured.setblocking(False)
        application.settimeout(5)
        self.world.driver.call(lambda: self.gate.accepted(captured, *syn.key))
        return application

    def live(self) -> int:
        return len(self.world.here.registry) + len(self.world.there.registry)

    def descriptors(self) -> int:
        count = self.world.driver.call(open_descriptors)
        assert isinstance(count, int)
        return count


@pytest.fixture
def held(world: World) -> Held:
    return Held(world)


@pytest.fixture
def inward(world: World) -> Held:
    return Held(world, TO_POD)


def echoes(sock: socket.socket) -> bool:
    sock.sendall(b"hello")
    return sock.recv(5) == b"hello"


def test_a_syn_is_let_in_when_its_destination_is_reached_and_its_connection_joins(held: Held) -> None:
    syn = held.syn(sequence=77)
    held.arrive(syn)
    held.until_let_in(77)
    # Reached before there is a client; the application's own thread says so in its own time.
    held.world.driver.until(lambda: held.world.seen == [CLIENT])
    with closing(held.accept(syn)) as application:
        assert echoes(application) and echoes(application)
    assert held.world.seen == [CLIENT], "once"
    held.world.driver.until(lambda: not held.live())
    assert held.gate.fates == {Fate.JOINED: 1} and not len(held.gate)
    assert not held.frames.resets()


class Listener:
    """Says how many it was told to accept."""

    def __init__(self) -> None:
        self.told = 0

    def take(self, count: int) -> None:
        self.told += count


def test_what_is_let_in_is_accepted_without_an_event_of_its_listener(held: Held) -> None:
    listeners, driver = (Listener(), Listener()), held.world.driver
    driver.call(lambda: [held.gate.serve(owner, listener) for owner, listener in enumerate(listeners)])
    held.arrive(held.syn(port=40000), held.syn(port=40001), owner=0)
    held.arrive(held.syn(port=40002), owner=1)
    driver.until(lambda: [each.told for each in listeners] == [2, 1])
    driver.call(lambda: held.gate.release(0))
    held.arrive(held.syn(port=40003), owner=0)
    held.arrive(held.syn(port=40004), owner=1)
    driver.until(lambda: listeners[1].told == 2)
    held.world.driver.until(lambda: len(held.frames.let_in()) == 5)
    assert listeners[0].told == 2, "others serve that one"


def test_what_the_server_says_first_waits_for_the_client(held: Held, world: World) -> None:
    with socket.create_server((SERVER, 8081)) as server:
        held.arrive(syn := held.syn(f"{SERVER}:8081"))
        with server.accept()[0] as connection:
            connection.sendall(b"220 ready\r\n")
            held.until_let_in(1)
            with closing(held.accept(syn)) as application:
                assert application.recv(100) == b"220 ready\r\n"


@pytest.mark.parametrize("to", [f"{SERVER}:8081", f"{VIP}:81"], ids=["pod", "service"])
def test_what_is_refused_is_reset(held: Held, to: str) -> None:
    before = held.descriptors()
    held.arrive(held.syn(to, sequence=0xFFFFFFFF))
    held.until(Fate.REFUSED)
    assert held.frames.resets() == [0] and not held.frames.let_in()
    held.world.driver.until(lambda: not held.live())
    assert not len(held.gate)
    (line,) = held.world.here.lines
    assert "error=" in line
    # The pool keeps its connection to the other node.
    assert held.descriptors() <= before + 4


def test_one_that_crosses_its_reset_is_answered_by_another_and_nobody_is_dialled(held: Held) -> None:
    """Its client had sent it again just before; by now it is gone."""
    to = f"{SERVER}:8081"
    held.arrive(held.syn(to, sequence=5))
    held.until(Fate.REFUSED)
    held.world.driver.until(lambda: not held.live())
    with socket.create_server((SERVER, 8081)):
        held.arrive(held.syn(to, sequence=5))
        assert held.frames.resets() == [6, 6] and not len(held.gate)
        assert len(held.world.here.lines) == 1, "it is one connection"
        held.arrive(held.syn(to, sequence=900))
        held.until_let_in(900)
        held.world.driver.call(lambda: held.gate.release(0))
    held.world.driver.until(lambda: not held.live())


def test_what_was_reset_is_not_remembered_for_long_nor_without_end(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "REMEMBERED", 2)
    for port in (2001, 2002, 2003):
        held.arrive(held.syn(f"{SERVER}:8081", port))
    held.until(Fate.REFUSED, 3)
    assert len(held.gate._reset) == 2
    held.world.driver.skew_s += gates.REMEMBERED_S + 1
    held.arrive(held.syn(f"{SERVER}:8081", 2003))
    held.until(Fate.REFUSED, 4)


def test_what_policy_denies_is_reset(held: Held, world: World) -> None:
    world.put_policy("apps/nobody", mesh.policy("nobody", Action.ALLOW, NOBODY))
    held.arrive(held.syn())
    held.until(Fate.REFUSED)
    assert held.frames.resets() == [2]


@pytest.mark.parametrize("world", [{"connect_timeout_s": "0.3"}], indirect=True)
def test_a_destination_that_does_not_answer_is_answered_for_by_nobody(held: Held) -> None:
    with deaf(DEAF, 8080):
        held.arrive(held.syn(f"{DEAF}:8080"))
        held.until(Fate.SILENT)
    assert not held.frames.sent and not held.live() and not len(held.gate)


def test_the_newest_syn_of_a_tuple_is_the_one_to_be_let_in(held: Held) -> None:
    with deaf(SERVER, 8082):
        first, newer = (held.syn(f"{SERVER}:8082", sequence=n) for n in (5, 900))
        held.arrive(first, first, newer, newer)
        assert len(held.gate) == 1 and not held.frames.sent
        held.world.driver.until(lambda: held.live() == 2)
        held.world.driver.call(lambda: held.world.here.close_pod(frozenset({first.peer.ip})))
    assert held.frames.resets() == [901]


def test_one_that_was_let_in_and_comes_again_is_let_in_again(held: Held) -> None:
    held.arrive(held.syn(sequence=5))
    held.until_let_in(5)
    held.arrive(held.syn(sequence=5))
    held.until_let_in(5, 5)
    held.arrive(held.syn(sequence=6))
    held.until_let_in(5, 5, 6)
    assert len(held.gate) == 1
    held.world.driver.until(lambda: held.world.seen == [CLIENT])


def test_an_early_connection_is_relayed_like_any_other(held: Held) -> None:
    """Accepted before the tunnel is answered: one dial, and bytes."""
    syn = held.syn()

    def both() -> socket.socket:
        application, captured = stream_pair(CLIENT)
        captured.setblocking(False)
        held.gate.arrived(0, syn)
        held.gate.accepted(captured, *syn.key)
        return application

    application = held.world.driver.call(both)
    assert isinstance(application, socket.socket)
    with closing(application):
        application.settimeout(5)
        assert echoes(application)
    assert held.gate.fates == {Fate.JOINED: 1} and not held.frames.sent
    assert held.world.seen == [CLIENT]


def test_an_early_connection_that_is_refused_is_reset_itself(held: Held) -> None:
    syn = held.syn(f"{SERVER}:8081")

    def both() -> socket.socket:
        application, captured = stream_pair(CLIENT)
        captured.setblocking(False)
        held.gate.arrived(0, syn)
        held.gate.accepted(captured, *syn.key)
        return application

    application = held.world.driver.call(both)
    assert isinstance(application, socket.socket)
    with closing(application), pytest.raises(ConnectionResetError):
        application.settimeout(5)
        application.recv(1)
    assert not held.frames.sent


def test_a_connection_that_nobody_held_is_served_from_the_beginning(held: Held) -> None:
    with closing(held.accept(held.syn())) as application:
        assert echoes(application)
    assert not held.gate.fates


def test_too_many_of_a_pod_are_let_in_at_once(held: Held) -> None:
    with deaf(SERVER, 8082):
        held.arrive(*(held.syn(f"{SERVER}:8082", 2000 + n) for n in range(HELD_OF_POD)))
        assert len(held.gate) == HELD_OF_POD and not held.frames.sent
        held.arrive(held.syn(port=1999, sequence=3))
        assert held.frames.let_in() == [3]
        assert held.gate.fates[Fate.TOO_MANY] == 1
        held.world.driver.call(lambda: held.world.here.close_pod(frozenset({held.syn().peer.ip})))
        assert not len(held.gate)
        held.arrive(held.syn(port=1998, sequence=4))
        held.until_let_in(3, 4)
        assert held.gate.fates[Fate.TOO_MANY] == 1, "there is room again"


def test_all_pods_together_have_a_limit(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "HELD_LIMIT", 3)
    with deaf(SERVER, 8082):
        held.arrive(*(held.syn(f"{SERVER}:8082", 2000 + n) for n in range(5)))
        assert (len(held.gate), held.gate.fates[Fate.TOO_MANY], len(held.frames.sent)) == (3, 2, 2)
        held.world.driver.call(lambda: held.world.here.close_pod(frozenset({held.syn().peer.ip})))


def test_a_client_that_does_not_come_has_its_destination_let_go(held: Held) -> None:
    held.arrive(syn := held.syn())
    held.until_let_in(1)
    held.world.driver.until(lambda: held.live() == 2)
    held.world.driver.skew_s += JOIN_S + 1
    held.until(Fate.GIVEN_UP)
    held.world.driver.until(lambda: not held.live())
    assert not held.frames.resets(), "it is gone, or has its answer"
    # If it comes all the same it is served anew.
    with closing(held.accept(syn)) as application:
        assert echoes(application)


def test_a_tunnel_that_ends_before_its_client_comes_keeps_nobody_waiting(
    held: Held, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "JOIN_S", 3600.0)
    held.arrive(held.syn())
    held.until_let_in(1)
    world.driver.call(lambda: [link.abort() for _, link in world.here.pool.links])
    held.until(Fate.GIVEN_UP)
    assert not len(held.gate)
    world.driver.until(lambda: not held.live())


def test_what_another_worker_serves_is_let_in_for_it(held: Held) -> None:
    with deaf(SERVER, 8082):
        held.arrive(held.syn(f"{SERVER}:8082", 2001, 5), owner=1)
        held.arrive(held.syn(f"{SERVER}:8082", 2002, 6), owner=0)
        held.world.driver.call(lambda: held.gate.release(1))
        assert held.frames.let_in() == [5] and not held.frames.resets()
        assert held.gate.fates == {Fate.HANDED_OVER: 1} and len(held.gate) == 1
        held.world.driver.call(lambda: held.gate.release(0))
        assert held.frames.let_in() == [5, 6]
    held.world.driver.until(lambda: not held.live())


def test_a_released_one_that_was_let_in_is_not_let_in_twice(held: Held) -> None:
    held.arrive(held.syn())
    held.until_let_in(1)
    held.world.driver.call(lambda: held.gate.release(0))
    assert held.frames.let_in() == [1]
    held.world.driver.until(lambda: not held.live())


def test_a_pod_that_leaves_has_its_held_ones_refused(held: Held) -> None:
    with deaf(SERVER, 8082):
        held.arrive(held.syn(f"{SERVER}:8082"))
        held.world.driver.call(lambda: held.world.here.close_pod(frozenset({held.syn().peer.ip})))
        assert held.frames.resets() == [2] and not len(held.gate)
        held.world.driver.until(lambda: not held.live())


def test_a_defect_refuses_the_one_that_it_concerns(held: Held) -> None:
    held.world.here.outbound.rng = Broken()
    with pytest.raises(KeyError):
        held.arrive(held.syn())
    assert held.frames.resets() == [2] and not len(held.gate) and not held.live()


# -- plaintext, on its way into a pod


def test_plaintext_is_let_in_when_the_application_is_reached(inward: Held) -> None:
    inward.arrive(syn := inward.syn(sequence=9))
    inward.until_let_in(9)
    with closing(inward.accept(syn)) as application:
        assert echoes(application)
    assert inward.world.seen == [STRANGER]
    inward.world.driver.until(lambda: not inward.live() and not inward.world.there.inbound_plain.count)


def test_what_this_worker_has_dialled_itself_is_not_held(inward: Held) -> None:
    own, other = inward.syn(port=40001, sequence=5), inward.syn(port=40002, sequence=6)
    plain = inward.world.there.inbound_plain
    inward.gate = Gate(
        inward.world.driver.loop,
        Direction.INBOUND,
        inward.frames,
        lambda *each: PlainConnection(plain, *each),
        plain.accepted,
        lambda *ends: ends == own.key,
    )
    inward.arrive(own)
    assert inward.frames.let_in() == [5] and not len(inward.gate) and not inward.live()
    inward.arrive(other)
    inward.until_let_in(5, 6)
    assert len(inward.gate) == 1
    inward.world.driver.call(lambda: inward.gate.release(0))


def test_plaintext_to_a_closed_port_is_reset(inward: Held) -> None:
    inward.arrive(inward.syn(f"{SERVER}:8081"))
    inward.until(Fate.REFUSED)
    assert inward.frames.resets() == [2]
    assert not inward.live() and not inward.world.there.inbound_plain.count


def test_a_policy_that_comes_while_plaintext_is_held_resets_it(inward: Held, world: World) -> None:
    with deaf(SERVER, 8082):
        inward.arrive(inward.syn(f"{SERVER}:8082"))
        assert len(inward.gate) == 1
        world.put_policy("apps/nobody", mesh.policy("nobody", Action.ALLOW, NOBODY))
        assert inward.frames.resets() == [2] and not len(inward.gate)


def test_an_application_that_was_reached_for_nobody_is_reset(inward: Held, world: World) -> None:
    with socket.create_server((SERVER, 8081)) as server:
        inward.arrive(inward.syn(f"{SERVER}:8081"))
        inward.until_let_in(1)
        with server.accept()[0] as connection:
            connection.settimeout(5)
            world.driver.skew_s += JOIN_S + 1
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    inward.until(Fate.GIVEN_UP)
    world.driver.until(lambda: not world.there.inbound_plain.count)


def test_keys_are_those_of_accepted_sockets(held: Held) -> None:
    assert held.syn().key == (SocketAddress.parse(f"{CLIENT}:40000"), SocketAddress.parse(f"{SERVER}:8080"))
