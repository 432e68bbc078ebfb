"""The pool's decisions: who shares a connection, when another is dialled, and who hears of failures."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from agent.model.outcome import Outcome, Refusal
from agent.proxy.pool import links_to_dial
from agent.proxy.pool_waiter import TRIES
from tests.support.pool import ANSWER_S, World, key


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.close()


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
    link.go_away()
    world.want()
    assert len(world.dials) == 1


def test_an_old_connection_that_runs_dry_after_goaway_fails_nobody_who_waits_for_a_new_one(
    world: World,
) -> None:
    """A node that restarts: its last tunnels end while the next agent is still being dialled."""
    world.want()
    link = world.connect()
    link.answer()
    link.go_away()
    world.want(2)
    world.end(world.tunnels[0])
    assert not world.refusals and len(world.dials) == 1
    world.connect().answer()
    assert len(world.tunnels) == 1 and not world.refusals


def test_a_new_connection_that_goes_away_before_it_took_anybody_is_dialled_again_and_not_for_ever(
    world: World,
) -> None:
    world.want(2)
    for tried in range(1, TRIES + 1):
        assert not world.refusals and len(world.dials) == 1
        world.dialled().secure(goes_at_once=True)
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
    world.dials.pop().fail(TimeoutError())
    assert [r.outcome for r in world.refusals] == [Outcome.HBONE_TIMEOUT] * 3
    world.want()
    assert len(world.dials) == 1, "the next one may try again"


def test_whoever_came_while_nobody_answered_is_not_failed_by_that_dial(world: World) -> None:
    """A network that is back must not reset who came a moment before an old dial gives up."""
    world.want(2)
    old = world.dials.pop()
    world.now += 9.0
    world.want(3)
    assert not world.dials, "one dial is for all who wait"
    old.fail(TimeoutError())
    assert [r.outcome for r in world.refusals] == [Outcome.HBONE_TIMEOUT] * 2
    again = world.dials.pop()
    world.now += 10.0
    again.fail(TimeoutError())
    assert [r.outcome for r in world.refusals] == [Outcome.HBONE_TIMEOUT] * 5, (
        "each has had a dial of its own"
    )
    assert not world.dials, "nobody is left"


def test_who_came_late_fails_too_where_somebody_answered(world: World) -> None:
    world.want()
    world.now += 9.0
    world.want()
    world.dials.pop().fail(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert len(world.refusals) == 2 and not world.dials


def test_a_failed_handshake_fails_everyone_who_waits(world: World) -> None:
    world.want(2)
    world.dialled().abort(Outcome.WRONG_IDENTITY, "it presented another")
    assert [r.outcome for r in world.refusals] == [Outcome.WRONG_IDENTITY] * 2


def test_what_became_of_connections_counts_for_the_pod_that_wanted_them(world: World) -> None:
    world.want()
    world.dials.pop().fail(TimeoutError())
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


def test_a_refusal_frees_its_stream_even_if_the_peer_leaves_it_open(world: World) -> None:
    world.want()
    link = world.connect()
    (tunnel,) = link.asked
    link.peer.answer_tunnel(tunnel.stream, 503, (), ended=False)
    world.settle()
    assert link.open_streams == 0 and "503" in world.refusals[0].detail


def test_without_a_certificate_everyone_who_waits_is_told(world: World) -> None:
    world.no_certificate = Refusal(Outcome.IDENTITY_UNAVAILABLE, "none")
    world.want(2)
    world.dials.pop().owner.connected(socket.socket())
    assert world.refusals == [world.no_certificate] * 2 and not world.pool.links


def test_an_unused_connection_is_closed_after_a_while(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer()
    world.end(world.tunnels[0])
    world.now = 299.0
    world.settle()
    assert link.is_usable
    world.now = 301.0
    world.settle()
    assert not link.is_usable and not world.pool.links


def test_use_in_between_lets_an_unused_connection_live_on(world: World) -> None:
    world.want()
    link = world.connect()
    for used_s in (0.0, 200.0, 450.0):
        world.now = used_s
        world.settle()
        if used_s:
            world.want()
        link.answer()
        world.end(world.tunnels[0])
    world.now = 749.0
    world.settle()
    assert link.is_usable
    world.now = 751.0
    world.settle()
    assert not link.is_usable


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


def test_a_peer_that_never_answers_is_waited_for_so_long(world: World) -> None:
    world.want(2)
    link = world.connect()
    world.now += ANSWER_S / 2
    world.want()
    link.answer()
    world.now += ANSWER_S / 2
    world.settle()
    assert len(world.tunnels) == 1 and len(world.refusals) == 1, "each has its own time"
    assert world.refusals[0].outcome is Outcome.CONNECT_TIMEOUT and "10.0.0.2:15008" in str(world.refusals[0])
    assert link.open_streams == 2, "its stream is given back"
    assert world.tallies.of(key().client_ip).tunnels_failed == 1
    world.now += ANSWER_S / 2
    world.settle()
    assert len(world.refusals) == 2 and not len(world.pool.unanswered)


def test_whoever_is_answered_or_leaves_is_waited_for_no_more(world: World) -> None:
    leaves, _, _, _ = world.want(4)
    link = world.connect()
    leaves.cancel()
    world.settle()
    link.answer()
    link.answer(503)
    link.abort(Outcome.RESET, "gone")
    assert not len(world.pool.unanswered)
    world.now += 2 * ANSWER_S
    world.settle()
    assert [refusal.outcome for refusal in world.refusals] == [Outcome.UPSTREAM_REFUSED, Outcome.RESET]


def test_who_asks_later_is_waited_for_as_long(world: World) -> None:
    world.want()
    link = world.connect()
    link.answer()
    world.now += ANSWER_S - 1
    world.want()
    world.now += 1
    world.settle()
    assert not world.refusals
    world.now += ANSWER_S
    world.settle()
    assert len(world.refusals) == 1
