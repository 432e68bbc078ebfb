"""The pool's decisions: who shares a connection, when another is dialled, and who hears of failures."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from agent.identity.faults import Fault
from agent.model.address import SocketAddress, parse_ip
from agent.model.identity import Identity
from agent.model.outcome import Outcome, Refusal
from agent.net.loop import Loop
from agent.net.tunnel import Standstill
from agent.proxy.pool import CROWDED_LINKS, TRIES, Pool, PooledLink, PoolKey, Waiter, links_to_dial
from agent.proxy.tallies import Tallies
from agent.wire.hbone import connect_head

SOURCE = Identity("cluster.local", "apps", "client")
SERVER = Identity("cluster.local", "apps", "server")
HEAD = connect_head("10.0.0.2:80")


def key(client: str = "10.0.0.1", target: str = "10.0.0.2:15008") -> PoolKey:
    return PoolKey(SOURCE, (SERVER,), SocketAddress.parse(target), parse_ip(client))


class FakeTunnel:
    failure: Refusal | None = None
    is_unseen = False

    def __init__(self, link: FakeLink, asker: Any) -> None:
        self.link = link
        self.asker = asker

    def reset(self) -> None:
        if self in self.link.asked:
            self.link.asked.remove(self)
            self.link.open_streams -= 1


class FakeLink:
    """A link whose peer allows `limit` tunnels; answers are given by the test."""

    def __init__(self, events: PooledLink) -> None:
        self.events: Any = events
        self.limit = 100
        self.asked: list[FakeTunnel] = []
        self.open_streams = 0
        self.is_usable = True
        self.is_crowded = False
        self.standstill = Standstill(0, 0, 0)
        self.secured: object = None
        self.fault: Fault | None = None
        self.went_away = False

    def start(self) -> None:
        pass

    @property
    def free_streams(self) -> int:
        return max(0, self.limit - self.open_streams) if self.is_usable else 0

    def open(self, head: object, asker: Any) -> FakeTunnel:
        self.open_streams += 1
        self.asked.append(FakeTunnel(self, asker))
        return self.asked[-1]

    def answer(self, status: int = 200, *, is_unseen: bool = False) -> None:
        tunnel = self.asked.pop(0)
        tunnel.is_unseen = is_unseen
        if status:
            tunnel.asker.answered(tunnel, status, ())
        else:
            tunnel.asker.gone(tunnel)

    def secure(self, limit: int = 100) -> None:
        """The handshake is done and the peer's SETTINGS are here."""
        self.limit = limit
        self.secured = object()
        self.events.available(self)

    def go_away(self) -> None:
        self.went_away = True
        self.is_usable = False

    def abort(self, outcome: Outcome, detail: str) -> None:
        if self.is_usable:
            self.is_usable = False
            while self.asked:
                self.answer(0)
            self.events.closed(self, outcome, detail)


class FakeDial:
    """A dial the test completes by hand."""

    def __init__(self, key: PoolKey, owner: Any) -> None:
        self.key = key
        self.owner = owner
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """A pool whose dials and links are the test's, and who waits for tunnels: its connector and its owner."""

    def __init__(self, streams_limit: int = 100) -> None:
        self.now = 0.0
        self.loop = Loop(lambda: self.now, lambda error, fd: None)
        self.dials: list[FakeDial] = []
        self.links: list[FakeLink] = []
        self.no_certificate: Refusal | None = None
        self.tallies = Tallies()
        self.pool = Pool(self.loop, self, self.tallies, streams_limit=streams_limit, idle_s=300.0)  # type: ignore[arg-type]
        self.tunnels: list[Any] = []
        self.refusals: list[Refusal] = []

    def dial(self, key: PoolKey, owner: Any) -> FakeDial:
        self.dials.append(FakeDial(key, owner))
        return self.dials[-1]

    def link(self, key: PoolKey, sock: socket.socket, events: PooledLink) -> FakeLink:
        if self.no_certificate is not None:
            raise self.no_certificate
        self.links.append(FakeLink(events))
        return self.links[-1]

    def opened(self, tunnel: Any, headers: object) -> None:
        self.tunnels.append(tunnel)

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def want(self, count: int = 1, **fields: str) -> list[Waiter]:
        return [self.pool.open(key(**fields), HEAD, self) for _ in range(count)]

    def dialled(self) -> FakeLink:
        """The oldest dial connects; the handshake follows."""
        self.dials.pop(0).owner.connected(None)
        return self.links[-1]

    def connect(self, limit: int = 100) -> FakeLink:
        link = self.dialled()
        link.secure(limit)
        return link


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.loop.close()


def test_a_burst_makes_one_connection(world: World) -> None:
    world.want(50)
    assert len(world.dials) == 1
    link = world.connect()
    assert link.open_streams == 50


def test_two_source_pods_never_share(world: World) -> None:
    world.want(client="10.0.0.1")
    world.want(client="10.0.0.9")
    assert len(world.dials) == 2


def test_a_peer_that_allows_ten_gets_ten_and_more_connections(world: World) -> None:
    world.want(25)
    first = world.connect(limit=10)
    assert first.open_streams == 10
    assert len(world.dials) == 2, "fifteen wait, ten to a connection"
    second = world.connect(limit=10)
    third = world.connect(limit=10)
    assert (second.open_streams, third.open_streams) == (10, 5)
    for link in (first, second, third):
        while link.asked:
            link.answer()
    assert len(world.tunnels) == 25


def test_a_live_connection_is_reused(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer()
    world.want()
    assert not world.dials
    assert link.open_streams == 2


def test_after_goaway_another_is_dialled(world: World) -> None:
    world.want()
    link = world.connect()
    link.is_usable = False
    world.want()
    assert len(world.dials) == 1


def test_an_old_connection_that_runs_dry_after_goaway_fails_nobody_who_waits_for_a_new_one(
    world: World,
) -> None:
    """A node that restarts: its last tunnels end while the next agent is still being dialled."""
    world.want()
    link = world.connect()
    link.answer()
    link.is_usable = False
    world.want(2)
    link.open_streams = 0
    link.events.available(link)
    assert not world.refusals and len(world.dials) == 1
    world.connect().answer()
    assert len(world.tunnels) == 2 and not world.refusals


def test_a_new_connection_that_goes_away_before_it_took_anybody_is_dialled_again_and_not_for_ever(
    world: World,
) -> None:
    world.want(2)
    for tried in range(1, TRIES + 1):
        assert not world.refusals and len(world.dials) == 1
        link = world.dialled()
        link.is_usable = False
        link.secure()
        assert len(world.refusals) == (2 if tried == TRIES else 0)
    assert not world.dials
    assert {str(refusal) for refusal in world.refusals} == {"10.0.0.2:15008 ends each new connection at once"}


def test_a_tunnel_that_the_peer_never_looked_at_may_go_another_way(world: World) -> None:
    world.want()
    world.connect().answer(0, is_unseen=True)
    assert not world.refusals
    world.links[-1].answer()
    assert len(world.tunnels) == 1


def test_a_failed_dial_fails_everyone_who_waits_at_once(world: World) -> None:
    world.want(3)
    world.dials.pop().owner.failed(key().target, TimeoutError())
    assert [r.outcome for r in world.refusals] == [Outcome.HBONE_TIMEOUT] * 3
    world.want()
    assert len(world.dials) == 1, "the next one may try again"


def test_a_failed_handshake_fails_everyone_who_waits(world: World) -> None:
    world.want(2)
    world.dialled().abort(Outcome.WRONG_IDENTITY, "it presented another")
    assert [r.outcome for r in world.refusals] == [Outcome.WRONG_IDENTITY] * 2


def test_what_became_of_connections_counts_for_the_pod_that_wanted_them(world: World) -> None:
    world.want()
    world.dials.pop().owner.failed(key().target, TimeoutError())
    world.want()
    world.dialled().abort(Outcome.WRONG_IDENTITY, "it presented another")
    world.want()
    world.connect().answer()
    tally = world.tallies.of(key().client_ip)
    assert (tally.tunnels_made, tally.tunnels_failed) == (1, 2)
    assert tally.last_error == "it presented another"


def test_an_answer_proves_the_way_whatever_it_says(world: World) -> None:
    world.want()
    world.connect().answer(401)
    assert world.tallies.of(key().client_ip).tunnels_made == 1


def test_whoever_leaves_after_a_long_wait_was_not_served(world: World) -> None:
    (dialling,) = world.want()
    world.now += 3.0
    dialling.cancel()
    tally = world.tallies.of(key().client_ip)
    assert (tally.tunnels_failed, tally.last_error) == (1, f"no answer of {key().target} in 3 s")
    world.dials.clear()
    world.want()
    world.connect()
    (unanswered,) = world.want()
    world.now += 2.0
    unanswered.cancel()
    assert (tally.tunnels_made, tally.tunnels_failed) == (0, 2)


def test_a_connection_that_was_given_up_has_not_failed(world: World) -> None:
    (waiter,) = world.want()
    waiter.cancel()
    world.want()
    world.pool.close_source(frozenset({key().client_ip}))
    assert world.tallies.of(key().client_ip).tunnels_failed == 0


def test_a_refusal_of_the_peer_carries_its_status(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer(401)
    assert world.refusals[0].outcome is Outcome.UPSTREAM_REFUSED
    assert "401" in world.refusals[0].detail


def test_a_reused_connection_that_dies_unanswered_is_retried_once(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer()
    world.want()
    link.abort(Outcome.RESET, "gone")
    assert not world.refusals
    second = world.connect()
    second.answer(0)
    assert len(world.refusals) == 1, "once is enough"


def test_a_fresh_connection_that_dies_unanswered_is_an_error(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer(0)
    assert len(world.refusals) == 1


def test_a_peer_that_allows_no_tunnels_is_not_dialled_for_ever(world: World) -> None:
    world.want(2)
    world.connect(limit=0)
    assert len(world.refusals) == 2
    assert not world.dials


def test_a_pod_that_leaves_loses_its_connections_and_waiters(world: World) -> None:
    """Linked, in handshake, being dialled, waiting, asked on a connection that others used before: all of it."""
    gone, other = "10.0.0.1", "10.0.0.9"
    world.want(client=gone)
    linked = world.connect(limit=2)
    linked.answer()
    world.want(client=gone)  # asked on the connection, and may try another
    world.want(3, client=gone)
    shaking = world.dialled()
    dialling = world.dials.pop()
    world.want(client=other)
    kept = world.connect()
    world.pool.close_source(frozenset([parse_ip(gone)]))
    assert not linked.is_usable and not shaking.is_usable and dialling.is_cancelled
    assert [refusal.outcome for refusal in world.refusals] == [Outcome.POD_REMOVED] * 4
    assert all(dial.is_cancelled for dial in world.dials), "nothing is dialled in its name any more"
    assert kept.is_usable and [link for _, link in world.pool.links] == [kept]


def test_a_dial_that_nobody_waits_for_is_given_up(world: World) -> None:
    first, second = world.want(2)
    first.cancel()
    assert not world.dials[0].is_cancelled
    second.cancel()
    assert world.dials.pop().is_cancelled and not world.refusals
    world.want()
    world.connect().answer()
    assert len(world.tunnels) == 1, "the next one may dial again"


def test_a_handshake_that_nobody_waits_for_is_given_up(world: World) -> None:
    (waiter,) = world.want()
    link = world.dialled()
    waiter.cancel()
    assert not link.is_usable and not world.pool.links and not world.refusals


def test_who_leaves_takes_one_dial_too_many_along_and_no_more(world: World) -> None:
    world.pool._streams_limit = 2
    waiters = world.want(5)
    assert len(world.dials) == 3
    waiters[1].cancel()
    assert [dial.is_cancelled for dial in world.dials] == [False, False, True]
    waiters[1].cancel()  # again: nothing to do
    assert [dial.is_cancelled for dial in world.dials] == [False, False, True]


def test_who_leaves_resets_the_tunnel_and_leaves_the_connection_to_others(world: World) -> None:
    first, second = world.want(2)
    link = world.connect()
    first.cancel()
    assert [tunnel.asker for tunnel in link.asked] == [second] and link.is_usable
    link.answer()
    assert len(world.tunnels) == 1 and not world.refusals
    second.cancel()  # answered: the tunnel is its owner's
    assert link.is_usable


def test_a_refusal_frees_its_stream_even_if_the_peer_leaves_it_open(world: World) -> None:
    world.want()
    link = world.connect()
    tunnel = link.asked[0]
    tunnel.asker.answered(tunnel, 503, ())
    assert link.open_streams == 0 and "503" in world.refusals[0].detail


def test_without_a_certificate_everyone_who_waits_is_told(world: World) -> None:
    world.no_certificate = Refusal(Outcome.IDENTITY_UNAVAILABLE, "none")
    world.want(2)
    world.dials.pop().owner.connected(None)
    assert world.refusals == [world.no_certificate] * 2 and not world.pool.links


def test_an_unused_connection_is_closed_after_a_while(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer()
    link.open_streams = 0
    link.events.available(link)
    world.now = 299.0
    world.loop.turn(0)
    assert not link.went_away
    world.now = 301.0
    world.loop.turn(0)
    assert link.went_away


def test_use_in_between_lets_an_unused_connection_live_on(world: World) -> None:
    world.want()
    link = world.connect()
    for used_s in (0.0, 200.0, 450.0):
        world.now = used_s
        world.loop.turn(0)
        if used_s:
            world.want()
        link.answer()
        link.open_streams = 0
        link.events.available(link)
    world.now = 749.0
    world.loop.turn(0)
    assert not link.went_away
    world.now = 751.0
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
        (3, 5, 1, -2),
    ],
)
def test_how_many_to_dial(waiting: int, connecting: int, per_link: int, more: int) -> None:
    assert links_to_dial(waiting, connecting, per_link) == more


# -- connections whose peer's window is held by tunnels that are not read


def test_a_crowded_connection_gets_no_new_tunnels_until_it_recovers(world: World) -> None:
    world.want()
    crowded = world.connect()
    crowded.is_crowded = True
    world.want(3)
    assert len(world.dials) == 1 and crowded.open_streams == 1
    second = world.connect()
    assert (crowded.open_streams, second.open_streams) == (1, 3)
    world.want()
    assert second.open_streams == 4 and not world.dials, "one further connection is enough"
    crowded.is_crowded = False
    world.want()
    assert crowded.open_streams == 2


def test_tunnels_that_end_on_a_crowded_connection_bring_it_none_of_those_who_wait(world: World) -> None:
    world.want()
    crowded = world.connect()
    crowded.is_crowded = True
    world.want()
    crowded.events.available(crowded)
    assert crowded.open_streams == 1
    assert world.connect().open_streams == 1


def test_a_crowded_connection_is_better_than_none(world: World) -> None:
    world.want()
    crowded = world.connect()
    crowded.is_crowded = True
    world.want(2)
    world.dials.pop().owner.failed(key().target, ConnectionRefusedError())
    assert crowded.open_streams == 3 and not world.refusals


def test_crowded_connections_are_not_added_to_without_end(world: World) -> None:
    for number in range(CROWDED_LINKS):
        world.want()
        link = world.connect()
        link.is_crowded, link.standstill = True, Standstill(0, 0, number % 7)
    world.want()
    assert not world.dials
    (chosen,) = [link for link in world.links if link.open_streams == 2]
    assert chosen.standstill.window_left_bytes == 6
