"""The pool's decisions: who shares a connection, when another is dialled, and who hears of failures."""

from __future__ import annotations

from typing import Any

import pytest

from agent.model.address import SocketAddress, parse_ip
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop
from agent.proxy.pool import LinkEvents, Pool, PoolKey, links_to_dial
from agent.wire.hbone import connect_head

SOURCE = Identity("cluster.local", "apps", "client")
SERVER = Identity("cluster.local", "apps", "server")
HEAD = connect_head("10.0.0.2:80")


def key(client: str = "10.0.0.1", target: str = "10.0.0.2:15008") -> PoolKey:
    return PoolKey(SOURCE, (SERVER,), SocketAddress.parse(target), parse_ip(client))


class FakeTunnel:
    failure: Refusal | None = None


class FakeLink:
    """A link whose peer allows `limit` tunnels; answers are given by the test."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.answers: list[Any] = []
        self.open_streams = 0
        self.is_usable = True
        self.secured = object()
        self.went_away = False

    @property
    def free_streams(self) -> int:
        return max(0, self.limit - self.open_streams) if self.is_usable else 0

    def open(self, head: object, on_answer: Any) -> FakeTunnel:
        self.open_streams += 1
        self.answers.append(on_answer)
        return FakeTunnel()

    def answer(self, status: int = 200) -> None:
        self.answers.pop(0)(FakeTunnel(), status, ())

    def go_away(self) -> None:
        self.went_away = True
        self.is_usable = False

    def abort(self, outcome: Outcome, detail: str) -> None:
        self.is_usable = False


class World:
    """A pool whose dials the test completes by hand."""

    def __init__(self, streams_limit: int = 100) -> None:
        self.now = 0.0
        self.loop = Loop(lambda: self.now, lambda error, fd: None)
        self.dials: list[tuple[LinkEvents, Any, Any]] = []
        self.pool = Pool(self.loop, self._connect, streams_limit=streams_limit, idle_s=300.0)
        self.opened = 0
        self.refused: list[Refusal] = []

    def _connect(self, key: PoolKey, events: LinkEvents, linked: Any, failed: Any) -> None:
        self.dials.append((events, linked, failed))

    def want(self, count: int = 1, **fields: str) -> None:
        for _ in range(count):
            self.pool.open(key(**fields), HEAD, lambda tunnel, headers: self._open(), self.refused.append)

    def _open(self) -> None:
        self.opened += 1

    def connect(self, limit: int = 100) -> tuple[FakeLink, LinkEvents]:
        events, linked, _ = self.dials.pop(0)
        link = FakeLink(limit)
        linked(link)
        events.available(link)  # type: ignore[arg-type]
        return link, events


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.loop.close()


def test_a_burst_makes_one_connection(world: World) -> None:
    world.want(50)
    assert len(world.dials) == 1
    link, _ = world.connect()
    assert link.open_streams == 50


def test_two_source_pods_never_share(world: World) -> None:
    world.want(client="10.0.0.1")
    world.want(client="10.0.0.9")
    assert len(world.dials) == 2


def test_a_peer_that_allows_ten_gets_ten_and_more_connections(world: World) -> None:
    world.want(25)
    first, _ = world.connect(limit=10)
    assert first.open_streams == 10
    assert len(world.dials) == 2, "fifteen wait, ten to a connection"
    second, _ = world.connect(limit=10)
    third, _ = world.connect(limit=10)
    assert (second.open_streams, third.open_streams) == (10, 5)
    for link in (first, second, third):
        while link.answers:
            link.answer()
    assert world.opened == 25


def test_a_live_connection_is_reused(world: World) -> None:
    world.want()
    link, _ = world.connect()
    link.answer()
    world.want()
    assert not world.dials
    assert link.open_streams == 2


def test_after_goaway_another_is_dialled(world: World) -> None:
    world.want()
    link, _ = world.connect()
    link.is_usable = False
    world.want()
    assert len(world.dials) == 1


def test_a_failed_dial_fails_everyone_who_waits_at_once(world: World) -> None:
    world.want(3)
    _, _, failed = world.dials.pop()
    failed(Refusal(Outcome.HBONE_TIMEOUT))
    assert [r.outcome for r in world.refused] == [Outcome.HBONE_TIMEOUT] * 3
    world.want()
    assert len(world.dials) == 1, "the next one may try again"


def test_a_failed_handshake_fails_everyone_who_waits(world: World) -> None:
    world.want(2)
    events, linked, _ = world.dials.pop()
    link = FakeLink(100)
    linked(link)
    events.closed(link, Outcome.WRONG_IDENTITY, "it presented another")  # type: ignore[arg-type]
    assert [r.outcome for r in world.refused] == [Outcome.WRONG_IDENTITY] * 2


def test_a_refusal_of_the_peer_carries_its_status(world: World) -> None:
    world.want()
    link, _ = world.connect()
    link.answer(401)
    assert world.refused[0].outcome is Outcome.UPSTREAM_REFUSED
    assert "401" in world.refused[0].detail


def test_a_reused_connection_that_dies_unanswered_is_retried_once(world: World) -> None:
    world.want()
    link, events = world.connect()
    link.answer()
    world.want()
    link.is_usable = False
    events.closed(link, Outcome.RESET, "gone")  # type: ignore[arg-type]
    link.answer(0)
    assert not world.refused
    second, _ = world.connect()
    second.answer(0)
    assert len(world.refused) == 1, "once is enough"


def test_a_fresh_connection_that_dies_unanswered_is_an_error(world: World) -> None:
    world.want()
    link, _ = world.connect()
    link.answer(0)
    assert len(world.refused) == 1


def test_a_peer_that_allows_no_tunnels_is_not_dialled_for_ever(world: World) -> None:
    world.want(2)
    world.connect(limit=0)
    assert len(world.refused) == 2
    assert not world.dials


def test_a_pod_that_leaves_loses_its_connections_and_waiters(world: World) -> None:
    world.want(client="10.0.0.1")
    link, _ = world.connect()
    world.want(client="10.0.0.9")
    world.pool.close_source(frozenset([parse_ip("10.0.0.1")]))
    assert not link.is_usable
    assert not world.refused, "the other pod goes on"


def test_an_unused_connection_is_closed_after_a_while(world: World) -> None:
    world.want()
    link, events = world.connect()
    link.answer()
    link.open_streams = 0
    events.available(link)  # type: ignore[arg-type]
    world.now = 299.0
    world.loop.turn(0)
    assert not link.went_away
    world.now = 301.0
    world.loop.turn(0)
    assert link.went_away


@pytest.mark.parametrize(
    ("waiting", "connecting", "per_link", "more"),
    [
        (0, 0, 100, 0),
        (1, 0, 100, 1),
        (100, 0, 100, 1),
        (101, 0, 100, 2),
        (101, 1, 100, 1),
        (5, 3, 1, 2),
        (3, 5, 1, 0),
    ],
)
def test_how_many_to_dial(waiting: int, connecting: int, per_link: int, more: int) -> None:
    assert links_to_dial(waiting, connecting, per_link) == more
