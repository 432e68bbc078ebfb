"""A hand-over over a real socket, with things that only remember what happened to them in place of connections."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from agent.handover import giving as giving_module
from agent.handover import taking as taking_module
from agent.handover.giving import LARGE_BYTES, LATE, REFUSED, Account, Giving, Remains, Why
from agent.handover.messages import Decoder, Hello, Message, No, Offer, Ready, Refused, encode
from agent.handover.taking import Taking
from agent.model.unit import FORMAT, BadUnit, StaysHere, Unit
from agent.model.unit import decode as decode_unit
from agent.model.unit import encode as encode_unit
from agent.net.loop import Loop

PATIENCE_S = 30.0


class Stays(NamedTuple):
    why: str


@dataclass
class Thing:
    """A connection, of the giver first. `where` it goes on; "" while it is on its way."""

    name: str
    fds: list[int]
    size_hint: int = 0
    stays: int = 0
    """So many times it cannot be frozen."""
    where: str = "giver"
    holder: Giver | None = None
    tries: int = 0

    def freeze(self) -> tuple[Unit, list[int]]:
        self.tries += 1
        if self.stays:
            self.stays -= 1
            raise StaysHere("not yet")
        assert self.where == "giver"
        self.where = ""
        return Unit("thing", {"name": self.name, "bulk": bytes(self.size_hint)}), self.fds

    def take_back(self) -> None:
        assert self.where == "", f"it is the {self.where}'s"
        self.where = "giver"

    def let_go(self) -> None:
        assert self.where == ""
        self.where = "taker"
        for fd in self.fds:
            os.close(fd)


@dataclass
class Giver:
    things: list[Thing]
    waits: int = 0
    """So many sweeps something is there that cannot move."""
    accounts: list[Account] = field(default_factory=list)

    def movables(self) -> Iterator[Thing]:
        return (thing for thing in self.things if thing.where == "giver")

    def immovable(self) -> Iterator[Stays]:
        if self.waits:
            self.waits -= 1
            yield Stays("it shakes hands")


@dataclass
class Taker:
    refuses: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    inherited: list[bytes] = field(default_factory=list)
    has_ended: bool = False

    def thaw(self, unit: Unit, fds: Sequence[int]) -> Built:
        name = str(unit.fields["name"])
        self.asked.append(name)
        if name in self.refuses:
            for fd in fds:
                os.close(fd)
            raise BadUnit(f"nobody wants {name}")
        return Built(self, name, fds)

    def inherit(self, final: bytes) -> None:
        self.inherited.append(final)


class Built(NamedTuple):
    taker: Taker
    name: str
    fds: Sequence[int]

    def start(self) -> None:
        self.taker.started.append(self.name)
        self.close()

    def drop(self) -> None:
        self.taker.dropped.append(self.name)
        self.close()

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class Scene:
    """A giver with its things, and the socket to the taker. `errors`: what callbacks raised."""

    def __init__(
        self,
        *things: Thing,
        waits: int = 0,
        gives: Sequence[int] = (FORMAT,),
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.errors: list[BaseException] = []
        self.loop = Loop(time.monotonic, lambda error, fd: self.errors.append(error))
        self.giver, self.taker = Giver(list(things), waits), Taker()
        ours, self.theirs = socket.socketpair()
        self.giving = Giving(
            self.loop,
            ours.detach(),
            gives,
            self.giver,
            patience_s,
            lambda: None,
            self.giver.accounts.append,
        )
        self.giving.start()
        self.taking: Taking | None = None

    def take(self, takes: Sequence[int] = (FORMAT,)) -> None:
        def over() -> None:
            self.taker.has_ended = True

        self.taking = Taking(self.loop, self.theirs.detach(), takes, self.taker, lambda: None, over)
        self.taking.start()

    def until(self, holds: Callable[[], object], what: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end_s, what
            self.loop.turn(0.05)

    @property
    def account(self) -> Account:
        self.until(lambda: self.giver.accounts, "the hand-over ends")
        [account] = self.giver.accounts
        if self.taking is not None:
            moved = account.moved.total()
            self.until(lambda: len(self.taker.started) >= moved, "what was given is started")
        return account

    # A taker that is played by hand.

    def say(self, *said: Hello | Ready) -> None:
        for message in said:
            for piece in encode(message):
                self.theirs.sendall(piece.data)

    def hear(self, decoder: Decoder) -> list[object]:
        heard: list[object] = []

        def listen() -> object:
            self.theirs.setblocking(False)
            try:
                data, fds, _, _ = socket.recv_fds(self.theirs, 1 << 20, 253)
            except BlockingIOError:
                return False
            heard.extend(decoder.receive(data, fds))
            return heard

        self.until(listen, "the giver says something")
        return heard


@pytest.fixture
def things() -> Callable[..., Thing]:
    def make(name: str, fds: int = 2, **more: int) -> Thing:
        pairs = [socket.socketpair() for _ in range(fds)]
        for _, far in pairs:
            far.close()
        return Thing(name, [near.detach() for near, _ in pairs], **more)

    return make


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    scene: Scene | None = getattr(request.node, "scene", None)
    if scene is not None:
        scene.giving.end(b"{}")
        scene.until(lambda: scene.taking is None or scene.taker.has_ended, "the taker hears of the end")
        for thing in scene.giver.things:
            if thing.where == "giver":
                for fd in thing.fds:
                    os.close(fd)
        scene.theirs.close()
        scene.loop.close()
        assert not scene.errors
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Callable[..., Scene]:
    def begin(*things: Thing, waits: int = 0, patience_s: float = PATIENCE_S) -> Scene:
        scene = request.node.scene = Scene(*things, waits=waits, patience_s=patience_s)
        return scene

    return begin


Things = Callable[..., Thing]
Play = Callable[..., Scene]


def test_everything_moves_in_its_order_and_the_figures_last(things: Things, play: Play) -> None:
    scene = play(
        *(things(str(number)) for number in range(20)), things("many", fds=450), things("none", fds=0)
    )
    scene.take()
    assert scene.account.moved == {"thing": 22} and not scene.account.stays and not scene.account.failure
    assert scene.taker.started == [*map(str, range(20)), "many", "none"] and not scene.taker.dropped
    assert {thing.where for thing in scene.giver.things} == {"taker"}
    assert len(scene.account.pauses_s) == 22
    assert 0 < sum(scene.account.pauses_s) <= scene.account.moved_s <= scene.account.took_s
    assert not scene.taker.inherited and not scene.taker.has_ended
    scene.giving.end(b'{"a": 1}')
    scene.until(lambda: scene.taker.has_ended, "the end")
    assert scene.taker.inherited == [b'{"a": 1}']


def test_patience_is_for_what_cannot_move_and_ends_for_nothing_that_can(things: Things, play: Play) -> None:
    later = things("later", stays=1)
    scene = play(*(things(str(number)) for number in range(20)), later, waits=1000, patience_s=0.0)
    scene.take()
    assert scene.account.moved == {"thing": 21} and later.tries == 2
    assert [(stays.why, stays.text) for stays in scene.account.stays] == [(Why.IMMOVABLE, "it shakes hands")]


def test_what_is_large_waits_once_and_what_cannot_move_is_looked_for_again(
    things: Things, play: Play
) -> None:
    large, later = things("large", size_hint=LARGE_BYTES + 1), things("later", stays=1)
    scene = play(large, later, things("small"), waits=3)
    scene.take()
    assert scene.account.moved == {"thing": 3} and not scene.account.stays
    assert scene.taker.started[0] == "small"
    assert (large.tries, later.tries) == (1, 2)
    assert 0 < scene.account.values_bytes < 500 < LARGE_BYTES < scene.account.blobs_bytes < LARGE_BYTES + 500


def test_what_is_refused_goes_on_here_and_is_not_offered_again(
    things: Things, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bad = things("bad")
    scene = play(things("a"), bad, things("b"), waits=4)
    scene.taker.refuses.add("bad")
    scene.take()
    assert scene.account.moved == {"thing": 2} and scene.account.stays == (Remains(Why.REFUSED, REFUSED, 1),)
    assert bad.where == "giver" and scene.taker.started == ["a", "b"]
    assert caplog.text.count("nobody wants bad") == 1 and scene.taker.asked.count("bad") == 1


@contextmanager
def no_more_than(count: int) -> Iterator[None]:
    """This process may open so many descriptors more, where none below its highest is free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [0, 2])
def test_a_taker_without_descriptors_refuses(things: Things, count: int) -> None:
    """The kernel passes as many as it may open, and says that there were more."""
    thing, scene = things("thing", fds=3), Scene()
    ours, theirs = socket.socketpair()
    Taking(scene.loop, theirs.detach(), (FORMAT,), scene.taker, lambda: None, lambda: None).start()
    unit, fds = thing.freeze()
    for piece in encode(Offer(1, FORMAT, giving_module.given(unit, FORMAT), len(fds), tuple(fds))):
        socket.send_fds(ours, [piece.data], piece.fds)
    decoder = Decoder()
    scene.theirs, unused = ours, scene.theirs
    with no_more_than(count):
        said = scene.hear(decoder)
        if len(said) == 1:
            said += scene.hear(decoder)
    assert isinstance(said[1], Refused) and f"{count} of 3 descriptors" in said[1].reason
    thing.let_go()
    for sock in (ours, unused):
        sock.close()
    scene.giving.end(b"")
    scene.until(lambda: not scene.errors, "the end")
    scene.loop.turn(0.05)
    scene.loop.close()


def test_a_taker_that_hears_no_does_not_start(
    things: Things, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is late: the giver has it, and says so before it goes on. What it says then comes too late."""
    monkeypatch.setattr(giving_module, "READY_S", 0.05)
    thing, other = things("thing"), things("other")
    scene = play(thing, other)
    decoder = Decoder()
    scene.say(Hello((FORMAT,)))
    [offer] = scene.hear(decoder)
    assert isinstance(offer, Offer) and thing.where == ""
    assert scene.hear(decoder) == [No(offer.number)]
    assert thing.where == "giver" and scene.account.failure == LATE
    assert scene.account.stays == (Remains(Why.LATE, LATE, 2),)
    scene.say(Ready(offer.number))
    scene.loop.turn(0.05)
    assert (thing.where, other.where) == ("giver", "giver")
    offer.close()


def all_that_lies_there(sock: socket.socket) -> tuple[list[Message], bool]:
    """What was said to an end that has not read until now; whether it ends there."""
    heard: list[Message] = []
    decoder = Decoder()
    sock.setblocking(False)
    has_ended = False
    with suppress(BlockingIOError):
        while not has_ended:
            data, fds, _, _ = socket.recv_fds(sock, 1 << 20, 253)
            heard += decoder.receive(data, fds)
            has_ended = not data
    decoder.close()
    for each in heard:
        if isinstance(each, Offer):
            each.close()
    return heard, has_ended


def late(thing: Thing) -> tuple[Scene, list[Message], bool]:
    """A taker that reads nothing until it is too late, and what it reads then."""
    scene = Scene(thing)
    scene.say(Hello((FORMAT,)))
    scene.until(lambda: scene.giver.accounts, "it is late")
    assert scene.account.failure == LATE and thing.where == "giver"
    heard, has_ended = all_that_lies_there(scene.theirs)
    scene.loop.turn(0.01)
    scene.giving.end(b"")
    scene.theirs.close()
    scene.loop.close()
    for fd in thing.fds:
        os.close(fd)
    return scene, heard, has_ended


def test_a_no_leaves_also_when_the_taker_has_read_nothing(
    things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is as full of the unit as can be: there is room for a word that must arrive."""
    monkeypatch.setattr(giving_module, "READY_S", 0.02)
    for size in range(300_000, 0, -4000):
        _, heard, _ = late(things("thing", size_hint=size))
        if heard:
            assert isinstance(heard[0], Offer) and heard[1:] == [No(1)]
            return
    raise AssertionError("no unit was small enough to leave whole")


def test_a_unit_that_is_cut_off_is_nobodys_there(things: Things, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is larger than the kernel holds, and the taker reads it when the giver has it back."""
    monkeypatch.setattr(giving_module, "READY_S", 0.02)
    _, heard, has_ended = late(things("thing", size_hint=LARGE_BYTES))
    assert not heard and has_ended


@pytest.mark.parametrize("is_ready", [False, True])
def test_a_taker_that_dies_leaves_its_unit_to_the_giver(things: Things, play: Play, is_ready: bool) -> None:
    thing = things("thing")
    scene = play(thing, things("other"))
    decoder = Decoder()
    scene.say(Hello((FORMAT,)))
    [offer] = scene.hear(decoder)
    assert isinstance(offer, Offer)
    offer.close()
    if is_ready:
        scene.say(Ready(offer.number))
    scene.theirs.close()
    assert "gone" in scene.account.failure or "said to it" in scene.account.failure
    assert thing.where == "giver" and not scene.account.moved


def test_the_end_of_a_giver_that_said_nothing_is_go(things: Things, play: Play) -> None:
    """It is dead: one that lives says No first."""
    scene = Scene()
    ours, theirs = socket.socketpair()
    taker, ended = Taker(), []
    taking = Taking(scene.loop, theirs.detach(), (FORMAT,), taker, lambda: None, lambda: ended.append(1))
    taking.start()
    thing = things("thing")
    unit, fds = thing.freeze()
    data = giving_module.given(unit, FORMAT)
    for piece in encode(Offer(1, FORMAT, data, len(fds), tuple(fds))):
        socket.send_fds(ours, [piece.data], piece.fds)
    ours.close()
    scene.until(lambda: ended, "the end")
    assert taker.started == ["thing"] and not taking.is_busy
    thing.let_go()
    scene.theirs.close()
    scene.giving.end(b"")
    scene.loop.close()


def test_a_no_that_lies_unread_counts_though_the_giver_is_gone(things: Things) -> None:
    scene = Scene()
    ours, theirs = socket.socketpair()
    thing = things("thing")
    unit, fds = thing.freeze()
    for said in (Offer(1, FORMAT, giving_module.given(unit, FORMAT), len(fds), tuple(fds)), No(1)):
        for piece in encode(said):
            socket.send_fds(ours, [piece.data], piece.fds)
    ours.close()
    taker, ended = Taker(), []
    Taking(scene.loop, theirs.detach(), (FORMAT,), taker, lambda: None, lambda: ended.append(1)).start()
    scene.until(lambda: ended, "the end")
    assert not taker.started and taker.dropped == ["thing"]
    thing.let_go()
    scene.theirs.close()
    scene.giving.end(b"")
    scene.loop.close()


def test_a_taker_that_speaks_out_of_turn_gets_nothing_more(things: Things, play: Play) -> None:
    thing = things("thing")
    scene = play(thing)
    decoder = Decoder()
    scene.say(Hello((FORMAT,)))
    [offer] = scene.hear(decoder)
    assert isinstance(offer, Offer)
    offer.close()
    scene.say(Ready(7))
    assert scene.hear(decoder) == [No(1)]
    assert "out of turn" in scene.account.failure and thing.where == "giver"


def test_one_that_takes_no_format_of_ours_is_given_nothing(things: Things, play: Play) -> None:
    thing = things("thing")
    scene = play(thing)
    scene.say(Hello((FORMAT + 1,)))
    assert "format" in scene.account.failure and thing.where == "giver" and not thing.tries


@pytest.mark.parametrize(
    ("gives", "takes", "told"), [((2, 1), (1,), 1), ((1,), (2, 1), 1), ((2, 1), (2, 1), 2)]
)
def test_builds_of_two_formats_meet_in_the_one_that_both_know(
    things: Things,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    gives: tuple[int, ...],
    takes: tuple[int, ...],
    told: int,
) -> None:
    asked: list[tuple[str, int]] = []

    def given(unit: Unit, format_: int) -> bytes:
        asked.append(("given", format_))
        return encode_unit(unit, format_)

    def taken(data: bytes, format_: int) -> Unit:
        asked.append(("taken", format_))
        return decode_unit(data, format_)

    monkeypatch.setattr(giving_module, "given", given)
    monkeypatch.setattr(taking_module, "taken", taken)
    scene = request.node.scene = Scene(things("thing"), gives=gives)
    scene.take(takes)
    assert scene.account.moved == {"thing": 1}
    assert asked == [("given", told), ("taken", told)]


def test_who_stops_taking_refuses_and_still_answers_for_what_it_has_built(things: Things, play: Play) -> None:
    scene = play(things("a"), things("b"))
    scene.take()
    assert scene.taking is not None
    scene.taking.stop("this worker drains")
    assert scene.account.stays == (Remains(Why.REFUSED, REFUSED, 2),) and not scene.taker.started


def test_too_many_descriptors_on_their_way_are_waited_for(
    things: Things, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ETOOMANYREFS: those of this user that are in flight somewhere count against its limit."""
    tries = []

    def send_fds(sock: socket.socket, data: list[bytes], fds: Sequence[int], real=socket.send_fds) -> int:
        tries.append(1)
        if len(tries) < 4:
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return real(sock, data, fds)

    monkeypatch.setattr(socket, "send_fds", send_fds)
    scene = play(things("a"))
    scene.take()
    assert scene.account.moved == {"thing": 1} and len(tries) == 4


def test_a_worker_that_ends_in_the_middle_says_no(things: Things, play: Play) -> None:
    thing = things("thing")
    scene = play(thing)
    decoder = Decoder()
    scene.say(Hello((FORMAT,)))
    [offer] = scene.hear(decoder)
    assert isinstance(offer, Offer) and scene.giving.is_busy
    offer.close()
    scene.giving.stop("it drains")
    assert not scene.giving.is_busy and thing.where == "giver"
    assert scene.hear(decoder) == [No(1)]
