"""Ours go ahead of programs of others a few times; whom that does not impress has the pod closed. Pure values."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from redirect.findings import Part, of_rivals
from redirect.observe import Observed
from redirect.plan import DeletePod, DestroySockets, GoAhead, PutIface, plan
from redirect.rivals import MOVES, PERIOD_S, Rivals
from tests.unit.redirect.test_plan import V4, V6, captured, pod, wanted

A, B = pod(5, V4, V6), pod(6, ip_address("10.0.0.9"))
WHOLE = captured(A, B)
PLACE = (5, "from_pod")
BEHIND = replace(WHOLE, behind={PLACE: "program 12 (greedy)"})


def fought(times: int = MOVES + 1, every_s: float = 2.0) -> Rivals:
    rivals = Rivals()
    for at in range(times):
        rivals.note(BEHIND, at * every_s)
        if not rivals.given_up(BEHIND):
            # The move did it, until the other one comes back.
            rivals.note(WHOLE, at * every_s + 1)
    return rivals


def steps(rivals: Rivals, observed: Observed) -> tuple[object, ...]:
    return plan(rivals.closed(wanted(A, B), observed), rivals.to_move(observed))


@pytest.mark.parametrize("times", range(1, MOVES + 1))
def test_ours_go_ahead_of_whoever_is_before_them(times: int) -> None:
    rivals = fought(times)
    assert steps(rivals, BEHIND) == (GoAhead(*PLACE),)
    assert rivals.given_up(BEHIND) == {}


def test_whoever_comes_back_each_time_has_the_pod_closed_and_is_named() -> None:
    rivals = fought()
    assert rivals.given_up(BEHIND) == {PLACE: "program 12 (greedy)"}
    done = steps(rivals, BEHIND)
    assert [type(step) for step in done] == [PutIface, DestroySockets, DeletePod, DeletePod]
    assert isinstance(done[0], PutIface) and not done[0].entry.addresses
    (finding,) = of_rivals(rivals.given_up(BEHIND), BEHIND)
    assert (finding.part, finding.ifindex, finding.is_mendable) == (Part.PROGRAM, 5, False)
    assert finding.reason.startswith("program 12 (greedy) has packets before from_pod on veth5")


def test_once_given_up_it_stays_so_for_as_long_as_somebody_is_before_ours_and_not_longer() -> None:
    rivals = fought()
    rivals.note(BEHIND, 100 * PERIOD_S)
    assert rivals.given_up(BEHIND)
    rivals.note(WHOLE, 100 * PERIOD_S + 1)
    assert steps(rivals, WHOLE) == ()
    rivals.note(BEHIND, 100 * PERIOD_S + 2)
    assert steps(rivals, BEHIND) == (GoAhead(*PLACE),)


def test_a_neighbour_that_comes_seldom_is_no_fight() -> None:
    assert not fought(10 * MOVES, PERIOD_S / MOVES + 0.1).given_up(BEHIND)


def test_places_are_counted_apart() -> None:
    rivals = fought()
    both = replace(WHOLE, behind={PLACE: "program 12", (6, "to_pod"): "program 13"})
    rivals.note(both, 10.0)
    assert rivals.given_up(both) == {PLACE: "program 12"}
    assert GoAhead(6, "to_pod") in steps(rivals, both)


def test_a_look_at_some_interfaces_says_nothing_of_others() -> None:
    rivals = fought()
    rivals.note(Observed(links={B.ifindex: WHOLE.links[B.ifindex]}, is_whole=False), 10.0)
    assert rivals.given_up(BEHIND)
    rivals.note(Observed(links={A.ifindex: WHOLE.links[A.ifindex]}, is_whole=False), 11.0)
    assert not rivals.given_up(BEHIND)
