"""What applications leave unread is bounded in all; who pays for it, and that nobody else does."""

from __future__ import annotations

import contextlib
import resource
import socket
from functools import partial
from pathlib import Path

import pytest

from agent.model.outcome import Outcome
from agent.net.allocator import give_back_free_memory
from agent.net.backlogs import CALM_S, MUCH_BYTES, Backlogs
from agent.net.plain_relay import BATCH_BYTES, PlainRelay
from agent.net.relay import TunnelRelay
from agent.net.tunnel import Tunnel
from agent.wire.h2_events import FIRST_WINDOW_BYTES, MIB
from tests.support.netpair import Ended, Hbone, Node, Relayed, node, tcp_pair
from tests.support.traffic import Flow, take_into


class Holder:
    def __init__(self, backlogs: Backlogs, group: object) -> None:
        self.backlogs = backlogs
        self.group = group
        self.size = 0
        self.ends: list[tuple[Outcome, str]] = []

    def hold(self, size: int) -> Holder:
        self.size += size
        self.backlogs.hold(self, size)
        return self

    def read(self, size: int) -> None:
        self.size -= size
        self.backlogs.release(self, size)

    def abort(self, outcome: Outcome, detail: str) -> None:
        self.ends.append((outcome, detail))
        self.read(self.size)


class World:
    def __init__(self) -> None:
        self.soon: list[object] = []
        self.later: list[object] = []
        self.backlogs = Backlogs(self.soon.append, lambda after_s, action: self.later.append(action))
        self.backlogs.limit_bytes = 100

    def turn(self) -> None:
        while self.soon:
            self.soon.pop(0)()  # type: ignore[operator]

    def holder(self, group: object = "a") -> Holder:
        return Holder(self.backlogs, group)


@pytest.fixture
def world() -> World:
    return World()


def test_up_to_the_limit_nobody_is_reset(world: World) -> None:
    holders = [world.holder().hold(50) for _ in range(2)]
    world.turn()
    assert not any(holder.ends for holder in holders) and world.backlogs.total_bytes == 100


def test_beyond_it_the_longest_unread_of_those_who_hold_most_goes(world: World) -> None:
    other = world.holder("b").hold(30)
    first, second, third = (world.holder().hold(20) for _ in range(3))
    first.read(5)  # so the second was not read from for longest
    third.hold(20)
    world.turn()
    assert [bool(holder.ends) for holder in (other, first, second, third)] == [False, False, True, False]
    assert second.ends[0][0] is Outcome.OVERLOADED and "--unread-bytes 100" in second.ends[0][1]
    assert world.backlogs.cut == 1


def test_as_many_go_as_must(world: World) -> None:
    holders = [world.holder().hold(20) for _ in range(10)]
    world.turn()
    assert [bool(holder.ends) for holder in holders] == [True] * 5 + [False] * 5
    assert world.backlogs.total_bytes == 100


def test_windows_grow_while_half_is_free(world: World) -> None:
    holder = world.holder().hold(49)
    assert world.backlogs.has_room()
    holder.hold(1)
    assert not world.backlogs.has_room()
    holder.read(50)
    assert world.backlogs.has_room() and world.backlogs.total_bytes == 0


def test_memory_is_given_back_once_when_most_of_much_was_read(world: World) -> None:
    world.backlogs.limit_bytes = 1 << 40
    for _ in range(2):
        holder, other = world.holder().hold(MUCH_BYTES), world.holder().hold(MIB)
        for _ in range(64):
            holder.read(MUCH_BYTES // 64)
        other.read(MIB)
    assert len(world.later) == 2
    world.holder().hold(MIB).read(MIB)
    assert len(world.later) == 2, "it was little"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_process_is_small_again_when_its_applications_have_read() -> None:
    with node() as it:
        hbones = [Hbone(it), Hbone(it)]
        relayed = [narrow(hbones[number % 2].relayed()) for number in range(180)]
        piece = bytes(1 << 18)
        held: list[int] = []

        def stands() -> bool:
            for each in relayed:
                with contextlib.suppress(BlockingIOError):
                    each.client.send(piece)
            it.settle()
            held.append(it.loop.backlogs.total_bytes)
            return held[-1] > MUCH_BYTES and held[-3:] == held[-1:] * 3

        give_back_free_memory()  # what other tests of this process have left would be used first
        before = resident_bytes()
        it.until(stands, 60)
        # Whatever lives between: as a worker's connections do.
        full = resident_bytes()
        assert full - before > MUCH_BYTES

        def all_is_read() -> bool:
            for each in relayed:
                take_into(each.server, bytearray())
            return not it.loop.backlogs.total_bytes

        it.until(all_is_read, 60)
        it.skew_s += CALM_S
        it.settle()
        assert resident_bytes() - before < (full - before) // 2


def narrow(relayed: Relayed, size: int = 1) -> Relayed:
    """The kernel keeps little for who reads at the server's end: what is unread is the relay's."""
    relayed.server_relay._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return relayed


def test_a_worker_holds_no_more_than_its_limit_and_other_connections_live() -> None:
    with node() as it:
        backlogs = it.loop.backlogs
        backlogs.limit_bytes = MIB
        hbone, other = Hbone(it), Hbone(it)
        paused, alive = narrow(other.relayed()), other.relayed()
        stalled = [narrow(hbone.relayed()) for _ in range(8)]
        flows = [
            Flow(each.client, each.server, MIB, number) for number, each in enumerate((paused, *stalled))
        ]

        def is_stuck(flow: Flow, relayed: Relayed) -> bool:
            """It holds about all that its first window lets it, or was reset for it."""
            with contextlib.suppress(OSError):
                flow.push()
            held = len(relayed.server_relay._backlog)
            return bool(relayed.done) or held > FIRST_WINDOW_BYTES - (1 << 16)

        for flow, relayed in zip(flows, (paused, *stalled), strict=True):
            it.until(partial(is_stuck, flow, relayed))
        it.until(lambda: backlogs.cut == sum(each.server_relay in each.done for each in stalled) > 3)
        assert backlogs.total_bytes <= MIB
        # Who of them: as above. The kernel may still take a little from any of them, which then counts as read.
        errors = [each.server_relay.error for each in stalled if each.server_relay in each.done]
        assert all("not read from for longest" in error for error in errors)
        assert not paused.done
        alive.client.send(b"hello")
        assert alive.read(alive.server, 5) == b"hello"
        narrow(paused, MIB)
        it.until(flows[0].step)
        assert flows[0].got == flows[0].data


def test_what_comes_before_the_application_is_reached_counts_too() -> None:
    """A peer may send at once into as many tunnels as it likes, to an address that is slow to answer."""
    with node() as it:
        backlogs = it.loop.backlogs
        backlogs.limit_bytes = MIB
        hbone = Hbone(it)
        told: list[Tunnel] = []

        class Owner:
            def gone(self, tunnel: Tunnel) -> None:
                told.append(tunnel)

        def dials(tunnel: Tunnel) -> None:
            tunnel.accept()
            tunnel.owner = Owner()

        hbone.server_side.on_request = dials
        outer = [hbone.ask() for _ in range(8)]
        it.until(lambda: len(hbone.answers) == 8)
        inner = [tunnel for tunnel, _ in hbone.server_side.requests]
        done = Ended[TunnelRelay]()
        pairs = [tcp_pair() for _ in outer]
        for tunnel, (near, application) in zip(outer, pairs, strict=True):
            it.keep(near)
            it.keep(application)
            TunnelRelay(it.loop, near, tunnel, done).start()
            application.send(bytes(FIRST_WINDOW_BYTES))
        it.until(lambda: len(done) == backlogs.cut == 4)
        assert told == inner[:4] and {tunnel.failure.outcome for tunnel in told if tunnel.failure} == {
            Outcome.OVERLOADED
        }
        assert {relay.outcome for relay in done} == {Outcome.CUT_BY_PEER}
        assert backlogs.total_bytes == MIB == hbone.server.standstill.unread_bytes
        near, application = (it.keep(sock) for sock in tcp_pair())
        TunnelRelay(it.loop, near, inner[4], done).start()
        got = bytearray()
        it.until(lambda: take_into(application, got) or len(got) == FIRST_WINDOW_BYTES)
        assert backlogs.total_bytes == MIB - FIRST_WINDOW_BYTES
        hbone.client.abort()
        it.until(lambda: hbone.server_side.ends)
        assert backlogs.total_bytes == 0 and len(told) == 7


def joined(it: Node, done: Ended[PlainRelay]) -> tuple[socket.socket, socket.socket]:
    """Two applications and a plain relay between them, which the kernel spares little."""
    (client, near), (far, server) = tcp_pair(), tcp_pair()
    for sock in (client, near, far, server):
        it.keep(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 if sock is far else MIB)
    PlainRelay(it.loop, near, far, done).start()
    return client, server


def test_plain_connections_that_nobody_reads_count_and_are_cut_too() -> None:
    with node() as it:
        backlogs = it.loop.backlogs
        backlogs.limit_bytes = 1 << 17
        done = Ended[PlainRelay]()
        pairs = [joined(it, done) for _ in range(12)]
        sent = [0] * len(pairs)
        piece = bytes(BATCH_BYTES)
        most: list[int] = []

        def is_cut() -> bool:
            for number, (client, _) in enumerate(pairs):
                with contextlib.suppress(OSError):
                    sent[number] += client.send(piece)
            it.settle()
            most.append(backlogs.total_bytes)
            return backlogs.cut > 2 and len(done) == backlogs.cut

        it.until(is_cut)
        assert 0 < max(most) <= 1 << 17
        assert {relay.outcome for relay in done} == {Outcome.OVERLOADED}
        assert all("for 127.0.0.1 (--unread-bytes" in relay.error for relay in done)
        backlogs.limit_bytes = MIB
        for sock in (sock for pair in pairs for sock in pair):
            with contextlib.suppress(OSError):  # of those that were cut
                sock.shutdown(socket.SHUT_WR)

        def all_read() -> bool:
            for _, server in pairs:
                with contextlib.suppress(OSError):
                    take_into(server, bytearray())
            return len(done) == len(pairs)

        it.until(all_read)
        assert backlogs.total_bytes == 0
        whole = [relay for relay in done if relay.outcome is Outcome.OK]
        assert len(whole) == len(pairs) - backlogs.cut
        assert {relay.sent_bytes for relay in whole} <= set(sent)


def test_a_peer_that_takes_nothing_counts_with_what_tls_has_for_it() -> None:
    with node() as it:
        backlogs = it.loop.backlogs
        backlogs.limit_bytes = MIB
        hbones = [Hbone(it), Hbone(it)]
        relayed = [[hbone.relayed() for _ in range(6)] for hbone in hbones]
        alive = Hbone(it).relayed()
        for hbone in hbones:
            it.loop.forget(hbone.client_wire.fileno())
            hbone.server_wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        piece = bytes(1 << 16)
        most = 0

        def is_cut() -> bool:
            nonlocal most
            for each in (each for several in relayed for each in several):
                with contextlib.suppress(OSError):
                    each.server.send(piece)
            it.settle()
            most = max(most, backlogs.total_bytes)
            return backlogs.cut == 1

        it.until(is_cut)
        it.until(lambda: any(hbone.server_side.ends for hbone in hbones))
        assert most > MIB // 2 and backlogs.total_bytes <= MIB
        (cut,) = [hbone for hbone in hbones if hbone.server_side.ends]
        assert cut.server_side.ends[0][0] is Outcome.OVERLOADED
        assert "on this HBONE connection" in cut.server_side.ends[0][1]
        alive.client.send(b"hello")
        assert alive.read(alive.server, 5) == b"hello"
        for hbone in hbones:
            hbone.server.abort()
        it.settle()
        assert backlogs.total_bytes == 0
