"""The limits of unfinished handshakes, by themselves and in a data plane that strangers crowd."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from OpenSSL import SSL

from agent.identity.faults import Fault
from agent.identity.handshake import Session
from agent.model.address import parse_ip
from agent.net.loop import Loop
from agent.proxy.handshakes import CALM_S, Handshakes
from agent.proxy.tallies import End
from tests.support.certs import credentials
from tests.support.two_nodes import SERVER, World, ended, exchange

HERE, THERE = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")


class Entry:
    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.dropped = False

    def give_up(self, fault: Fault, detail: str) -> None:
        self.fault = fault

    def drop(self) -> None:
        self.dropped = True


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handshakes(clock: Clock) -> Iterator[Handshakes]:
    loop = Loop(clock, lambda error, fd: None)
    made = Handshakes(loop, 64)
    made._loop = loop
    yield made
    loop.close()


def test_the_oldest_of_a_crowded_address_gives_way(handshakes: Handshakes) -> None:
    assert (handshakes.limit, handshakes.limit_per_source) == (16, 4)
    other, crowd = Entry(), [Entry() for _ in range(6)]
    handshakes.begin(other, THERE)
    for entry in crowd:
        handshakes.begin(entry, HERE)
    assert [entry.fault for entry in crowd] == [Fault.SOURCE_CROWDED] * 2 + [None] * 4
    assert other.fault is None and len(handshakes) == 5


def test_the_oldest_of_all_gives_way_when_there_are_too_many(handshakes: Handshakes) -> None:
    crowd = [Entry() for _ in range(18)]
    for low, entry in enumerate(crowd):
        handshakes.begin(entry, parse_ip(f"10.0.0.{low}"))
    assert [entry.fault for entry in crowd] == [Fault.CROWDED] * 2 + [None] * 16


def test_those_that_are_done_count_no_more(handshakes: Handshakes) -> None:
    for _ in range(100):
        entry = Entry()
        handshakes.begin(entry, HERE)
        handshakes.end(entry)
        handshakes.end(entry)
        assert entry.fault is None
    assert len(handshakes) == 0 and not handshakes.make_room()


def test_failed_ones_whose_sockets_linger_are_limited_too(handshakes: Handshakes, clock: Clock) -> None:
    failed = [Entry() for _ in range(17)]
    for entry in failed:
        handshakes.begin(entry, HERE)
        handshakes.failed(entry)
    assert [entry.dropped for entry in failed] == [True] + [False] * 16
    clock.now_s = CALM_S
    handshakes._loop.turn()
    assert all(entry.dropped for entry in failed)


@pytest.mark.parametrize("world", [{"max_connections": "64"}], indirect=True)
@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["silent", "garbage"])
def test_a_crowd_of_strangers_costs_members_nothing(world: World, garbage: bytes) -> None:
    live = world.connect()
    live.sendall(b"x")
    assert live.recv(1) == b"x"
    with ExitStack() as stack:
        for n in range(200):
            stranger = stack.enter_context(socket.socket())
            stranger.bind((f"127.77.9.{n % 8 + 1}", 0))
            stranger.connect((SERVER, 15008))
            stranger.sendall(garbage)
        inbound = world.there.inbound
        world.driver.until(lambda: sum(world.there.tallies.faults.values()) > 100)
        assert world.driver.call(lambda: len(inbound.handshakes) <= inbound.handshakes.limit)
        world.driver.call(lambda: world.here.pool.close_source(frozenset(world.client.addresses)))
        assert ended(live), "what was pooled has gone: the next needs a handshake in the crowd"
        assert exchange(world.connect()) == b"hello"
        if not garbage:
            crowded = world.there.tallies.faults[End.SERVER, Fault.CROWDED]
            assert crowded + world.there.tallies.faults[End.SERVER, Fault.SOURCE_CROWDED] > 100
    world.driver.until(lambda: len(inbound.handshakes) == 0)


def test_handshakes_that_came_to_nothing_leave_nothing_to_the_garbage_collector(world: World) -> None:
    hello = Session.client(credentials(world.there.ca, str(world.client.identity)), ()).outgoing()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with socket.create_connection((SERVER, 15008)) as stranger:
                stranger.settimeout(5)
                stranger.sendall(hello)
                assert stranger.recv(1)
        world.driver.until(lambda: not world.there.inbound.links)
        world.driver.until(lambda: not [o for o in gc.get_objects() if type(o) is SSL.Connection])
    finally:
        gc.enable()


def test_refused_lines_that_come_too_fast_share_one(world: World) -> None:
    with ExitStack() as stack:
        for _ in range(400):
            stranger = stack.enter_context(socket.create_connection((SERVER, 15008)))
            stranger.sendall(b"nonsense")
        world.driver.until(lambda: sum(world.there.tallies.faults.values()) == 400)
    world.driver.call(world.there.reporter.count_bytes)
    lines, spared = world.there.lines, world.there.reporter.spared
    assert 0 < spared < 400
    assert len([line for line in lines if "connection failed" in line]) == 400 - spared
    assert f"connections={spared}" in lines[-1]
    world.driver.call(world.there.reporter.count_bytes)
    assert lines[-1].count("more connections failed") == 1 and len(lines) == 401 - spared


def test_bytes_that_trickle_do_not_extend_a_handshake(world: World) -> None:
    with socket.create_connection((SERVER, 15008)) as stranger:
        stranger.settimeout(0.05)
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < 10:
            try:
                stranger.sendall(b"\x16")
                if not stranger.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        world.driver.until(lambda: len(world.there.inbound.links) == 0)
    assert (
        world.there.tallies.faults[End.SERVER, Fault.TIMEOUT]
        + world.there.tallies.faults[End.SERVER, Fault.PROTOCOL]
    )
