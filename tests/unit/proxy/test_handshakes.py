"""The limits of unfinished handshakes, by themselves and in a data plane that strangers crowd."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import repeat

import pytest

from agent.identity.faults import Fault
from agent.identity.handshake import Session
from agent.model.address import IP, parse_ip
from agent.net.loop import Loop
from agent.net.member_table import MEMBER, PLACES, MemberTable
from agent.proxy.handshakes import CALLERS, CALM_S, FEW, MOMENT_S, RELIEF_S, SHAKING, Crowd, Handshakes
from agent.proxy.proven import MEMBER_S, Proven
from agent.proxy.tallies import End
from tests.support.certs import credentials
from tests.support.loopback import ours
from tests.support.two_nodes import SERVER, World, ended, exchange

HERE, THERE, KNOWN = parse_ip("10.0.0.1"), parse_ip("10.0.0.2"), parse_ip("10.0.0.3")


class Entry:
    def __init__(self) -> None:
        self.fault: Fault | None = None

    def give_up(self, fault: Fault, detail: str) -> None:
        self.fault = fault


class Left:
    is_cut = False

    def cut(self) -> None:
        self.is_cut = True


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crowd() -> Crowd:
    return Crowd(16, knowing(KNOWN))


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    made = Loop(clock, lambda error, fd: None)
    yield made
    made.close()


@pytest.fixture
def handshakes(loop: Loop) -> Handshakes:
    return Handshakes(loop, 64)


def knowing(*addresses: IP) -> Proven:
    made = Proven()
    for ip in addresses:
        made.note(ip)
    return made


def begun(crowd: Crowd, source: IP, count: int) -> list[Entry]:
    entries = [Entry() for _ in range(count)]
    for entry in entries:
        crowd.begin(entry, source)
    return entries


def test_the_oldest_of_a_crowded_address_gives_way(crowd: Crowd) -> None:
    other, crowded = begun(crowd, THERE, 1), begun(crowd, HERE, 6)
    assert [entry.fault for entry in crowded] == [Fault.SOURCE_CROWDED] * 2 + [None] * 4
    assert other[0].fault is None and len(crowd) == 5


def test_the_oldest_of_all_gives_way_when_none_stands_out(crowd: Crowd) -> None:
    entries = [begun(crowd, parse_ip(f"10.0.0.{low}"), 1)[0] for low in range(1, 19)]
    assert [entry.fault for entry in entries] == [Fault.CROWDED] * 2 + [None] * 16


def test_of_too_many_a_crowd_gives_way_before_those_that_have_few() -> None:
    crowd = Crowd(40, knowing(KNOWN))
    first = begun(crowd, THERE, 1)
    crowds = [begun(crowd, parse_ip(f"10.0.1.{low}"), FEW + 1) for low in range(8)]
    assert len(crowd) == 40 and crowds[0][0].fault is Fault.CROWDED
    begun(crowd, parse_ip("10.0.2.1"), 3)
    assert first[0].fault is None
    assert [sum(entry.fault is not None for entry in each) for each in crowds] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_an_address_that_has_proven_itself_is_the_last_to_give_way(crowd: Crowd) -> None:
    known = begun(crowd, KNOWN, 4)
    strangers = [begun(crowd, parse_ip(f"10.0.1.{low}"), 1)[0] for low in range(19)]
    assert all(entry.fault is None for entry in known)
    assert [entry.fault for entry in strangers] == [Fault.CROWDED] * 7 + [None] * 12


def test_those_that_are_done_count_no_more(crowd: Crowd) -> None:
    for _ in range(100):
        (entry,) = begun(crowd, HERE, 1)
        assert crowd.end(entry) == HERE and crowd.end(entry) is None
        assert entry.fault is None
    assert len(crowd) == 0 and not crowd.make_room()


def test_who_proves_itself_is_noted_for_the_programs(handshakes: Handshakes) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(PLACES * MEMBER.size)
        handshakes.note_in(MemberTable(os.dup(file.fileno())))
        for source in (KNOWN, parse_ip("fd00::7")):
            handshakes.shaking.begin(entry := Entry(), source)
            handshakes.prove(entry)
        (stranger,) = begun(handshakes.shaking, HERE, 1)
        handshakes.failed(stranger, None)
        noted = dict(MEMBER.iter_unpack(file.read()))
    until_ns = (time.monotonic_ns() + int((MEMBER_S - 60) * 1e9), time.monotonic_ns() + int(MEMBER_S * 1e9))
    noted.pop(bytes(16))
    assert noted.keys() == {bytes(10) + b"\xff\xff" + KNOWN.packed, parse_ip("fd00::7").packed}
    assert all(until_ns[0] < each <= until_ns[1] for each in noted.values())


def test_failed_ones_whose_sockets_linger_are_limited_too(
    handshakes: Handshakes, loop: Loop, clock: Clock
) -> None:
    left = [Left() for _ in range(17)]
    for each in left:
        entry = Entry()
        handshakes.shaking.begin(entry, HERE)
        handshakes.failed(entry, each)
    assert [each.is_cut for each in left] == [True] + [False] * 16
    clock.now_s = CALM_S
    loop.turn()
    assert all(each.is_cut for each in left)


def test_of_too_many_that_do_not_go_on_a_few_last(handshakes: Handshakes, loop: Loop, clock: Clock) -> None:
    """They hold memory that OpenSSL does not give back before they end."""

    def look(at_s: float) -> list[bool]:
        clock.now_s = at_s
        loop.turn()
        return [entry.fault is None for entry in (*known, *first, *later)]

    few = handshakes.shaking.limit // 4
    prover = Entry()
    handshakes.shaking.begin(prover, KNOWN)
    handshakes.prove(prover)
    known = begun(handshakes.shaking, KNOWN, 2)
    first = [begun(handshakes.shaking, parse_ip(f"10.0.1.{low}"), 1)[0] for low in range(few + 1)]
    later: list[Entry] = []
    handshakes.ask_first(*begun(handshakes.callers, THERE, 1), THERE, lambda: True)
    assert all(look(MOMENT_S)), "they have only just come"
    later += [begun(handshakes.shaking, parse_ip(f"10.0.2.{low}"), 1)[0] for low in range(2)]
    assert look(2 * MOMENT_S) == [True] * 2 + [False] * (few + 1) + [True] * 2
    assert len(handshakes.shaking) == few
    assert look(3 * MOMENT_S) == look(2 * MOMENT_S), "so many may last"


def test_memory_is_given_back_once_no_crowd_comes_any_more(loop: Loop, clock: Clock) -> None:
    given_back: list[float] = []
    handshakes = Handshakes(loop, 64, lambda: given_back.append(clock.now_s))
    many = handshakes.shaking.limit_per_source + 1
    for look in range(1, 4):
        for _ in range(many):
            handshakes.count_failure()
        clock.now_s = look * CALM_S
        loop.turn()
    assert not given_back, "it stops everybody for a moment, and they still come"
    handshakes.count_failure()
    clock.now_s += CALM_S
    loop.turn()
    assert given_back == [4 * CALM_S]
    handshakes.count_failure()
    clock.now_s += CALM_S
    loop.turn()
    assert len(given_back) == 1, "a single one is no crowd"


def test_where_many_do_not_go_on_all_whom_nobody_knows_wait_for_known_ones(
    handshakes: Handshakes, loop: Loop, clock: Clock
) -> None:
    taken: list[str] = []

    def step(name: str) -> Callable[[], bool]:
        def take() -> bool:
            taken.append(name)
            clock.now_s += 0.001
            return True

        return take

    for low in range(handshakes.shaking.limit // 2 + 1):
        begun(handshakes.shaking, parse_ip(f"10.0.3.{low}"), 1)
    entry = Entry()
    handshakes.shaking.begin(entry, KNOWN)
    handshakes.prove(entry)
    for low in range(3):
        (caller,) = begun(handshakes.callers, source := parse_ip(f"10.0.4.{low}"), 1)
        handshakes.ask_first(caller, source, step("unknown"))
    for _ in range(3):
        loop.turn()
    (again,) = begun(handshakes.callers, KNOWN, 1)
    handshakes.ask_first(again, KNOWN, step("known"))
    for _ in range(3):
        loop.turn()
    assert taken == ["unknown", "known"]


def test_turns_go_to_who_is_under_way_or_known_then_to_few_then_to_crowds(
    handshakes: Handshakes, loop: Loop
) -> None:
    taken: list[str] = []

    def step(name: str) -> Callable[[], bool]:
        return lambda: taken.append(name) is None

    entry = Entry()
    handshakes.shaking.begin(entry, KNOWN)
    handshakes.prove(entry)
    handshakes.callers.limit_per_source = 2 * FEW
    crowd, few = parse_ip("10.0.1.1"), parse_ip("10.0.1.2")
    many = begun(handshakes.callers, crowd, FEW + 1)
    (one,), (again,) = begun(handshakes.callers, few, 1), begun(handshakes.callers, KNOWN, 1)
    (under_way,) = begun(handshakes.shaking, few, 1)
    for name, caller, source in (("crowd", many[0], crowd), ("few", one, few), ("known", again, KNOWN)):
        handshakes.ask_first(caller, source, step(name))
    handshakes.ask_next(under_way, few, step("under way"))
    for _ in range(10):
        loop.turn()
    assert taken == ["known", "under way", "few", "crowd"]


class Arriving:
    """Callers of known addresses, each of which begins to shake hands when it is its turn."""

    def __init__(self, handshakes: Handshakes, loop: Loop, sources: list[IP]) -> None:
        self._handshakes, self._loop = handshakes, loop
        self.shaking: list[Entry] = []
        self.callers: list[Entry] = []
        for source in sources:
            (caller,) = begun(handshakes.callers, source, 1)
            self.callers.append(caller)
            handshakes.ask_first(caller, source, self._step(caller, source))

    def _step(self, caller: Entry, source: IP) -> Callable[[], bool]:
        def take() -> bool:
            self._handshakes.callers.end(caller)
            self.shaking += begun(self._handshakes.shaking, source, 1)
            return True

        return take

    def settle(self) -> list[Entry]:
        """Those that shake hands, when nobody has a turn any more."""
        for _ in range(200):
            self._loop.turn(0.0)
        return self.shaking


def known_of(handshakes: Handshakes, count: int) -> list[IP]:
    sources = [parse_ip(f"10.0.5.{low}") for low in range(1, count + 1)]
    for source in sources:
        (entry,) = begun(handshakes.shaking, source, 1)
        handshakes.prove(entry)
    return sources


def test_when_a_whole_node_comes_back_at_once_nobody_loses_what_was_done_for_it(loop: Loop) -> None:
    handshakes = Handshakes(loop, 100_000)
    sources = known_of(handshakes, 32)
    arriving = Arriving(handshakes, loop, sources * (CALLERS // 32 + 4))
    count = len(arriving.callers)
    assert count > CALLERS
    for done in range(0, count, SHAKING):
        shaking = arriving.settle()
        assert len(shaking) == min(done + SHAKING, count)
        for entry in shaking[done:]:
            handshakes.prove(entry)
    assert not [entry for entry in (*arriving.callers, *arriving.shaking) if entry.fault is not None]


def test_where_many_wait_those_are_let_in_who_have_most_of_their_time_left(loop: Loop) -> None:
    handshakes = Handshakes(loop, 1000)
    sources, limit = known_of(handshakes, 8), handshakes.shaking.limit
    arriving = Arriving(handshakes, loop, sources * (limit // 8 + 1))
    arriving.settle()
    later = Arriving(handshakes, loop, sources[:1])
    assert not later.settle()
    handshakes.prove(arriving.shaking[0])
    assert len(later.settle()) == 1


def test_of_one_known_address_that_opens_many_each_is_served_after_the_other(
    handshakes: Handshakes, loop: Loop
) -> None:
    (source,) = known_of(handshakes, 1)
    most = handshakes.shaking.limit_per_source
    handshakes.callers.limit_per_source = 2 * most
    arriving = Arriving(handshakes, loop, [source] * (most + 1))
    assert len(arriving.settle()) == most
    handshakes.failed(arriving.shaking[0], None)
    assert len(arriving.settle()) == most + 1
    assert not [entry for entry in arriving.shaking if entry.fault is not None]


def test_known_ones_that_are_silent_keep_nobody_out(loop: Loop, clock: Clock) -> None:
    handshakes = Handshakes(loop, 1000)
    sources, limit = known_of(handshakes, 8), handshakes.shaking.limit
    arriving = Arriving(handshakes, loop, [*sources * (limit // 8), sources[0]])
    assert len(arriving.settle()) == limit
    clock.now_s += RELIEF_S
    assert len(arriving.settle()) == limit + 1 and arriving.shaking[0].fault is Fault.CROWDED
    assert [entry.fault for entry in arriving.shaking[1:]] == [None] * limit


def test_who_has_proven_itself_to_the_workers_before_is_no_stranger_to_the_next(loop: Loop) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(PLACES * MEMBER.size)
        for address in (KNOWN, parse_ip("fd00::7")):
            table = MemberTable(os.dup(file.fileno()))
            assert not table.knows(address)
            table.note(address, MEMBER_S)
            next_ones = Handshakes(loop, 1000)
            next_ones.note_in(MemberTable(os.dup(file.fileno())))
            crowd = begun(next_ones.callers, address, 2 * FEW)
            assert {next_ones.callers.rank(caller) for caller in crowd} == {0}
            table.note(address, -1.0)
            assert not table.knows(address), "its time is over"
            table.close()


def test_a_crowd_of_which_one_has_proven_itself_is_none(handshakes: Handshakes, loop: Loop) -> None:
    """A gateway with many clients behind it comes as one address."""
    taken: list[int] = []
    handshakes.callers.limit_per_source = handshakes.shaking.limit_per_source = 16
    crowd = begun(handshakes.callers, HERE, 2 * FEW)
    for number, caller in enumerate(crowd):
        handshakes.ask_first(caller, HERE, lambda number=number: taken.append(number) is None)
    (first,) = begun(handshakes.shaking, HERE, 1)
    handshakes.prove(first)
    assert {handshakes.callers.rank(caller) for caller in crowd} == {0}
    for _ in range(20):
        loop.turn()
    assert taken == list(range(2 * FEW)), "also those that had asked before"


@pytest.mark.parametrize("world", [{"max_connections": "64"}], indirect=True)
@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["silent", "garbage"])
def test_a_crowd_of_strangers_costs_members_nothing(world: World, garbage: bytes) -> None:
    live = world.connect()
    live.sendall(b"x")
    assert live.recv(1) == b"x"
    with ExitStack() as stack:
        for n in range(200):
            stranger = stack.enter_context(socket.socket())
            stranger.bind((ours(f"9.{n % 8 + 1}"), 0))
            stranger.connect((SERVER, 15008))
            stranger.sendall(garbage)
        inbound = world.there.inbound
        world.driver.until(lambda: sum(world.there.tallies.faults.values()) > 100)
        assert world.driver.call(lambda: len(inbound.handshakes.callers) <= inbound.handshakes.callers.limit)
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
        world.driver.until(lambda: not world.there.inbound.held)
        kinds = {"Caller", "Engine", "InboundLink", "TunnelLink", "TlsLink"}
        world.driver.until(lambda: not [o for o in gc.get_objects() if type(o).__name__ in kinds])
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


@pytest.mark.parametrize("world", [{"handshake_timeout_s": "0.5"}], indirect=True)
def test_bytes_that_trickle_do_not_extend_a_handshake(world: World) -> None:
    with socket.create_connection((SERVER, 15008)) as stranger:
        stranger.settimeout(0.05)
        for said in (b"\x16\x03\x01\x40\x00\x01", *repeat(b"\0", 1000)):
            try:
                stranger.sendall(said)
                if not stranger.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        world.driver.until(lambda: world.there.inbound.held == 0)
    assert world.there.tallies.faults[End.SERVER, Fault.TIMEOUT] == 1
