"""What whoever asks for an enrolment is told, and what has changed after each answer."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.enroller import StillWaiting
from agent.enroll.treatment import Honesty
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey
from agent.identity.signer import SigningError
from agent.model.address import parse_ip
from agent.state.apply import Changes
from redirect.errors import PodNotFound
from redirect.host_addresses import Heard, News
from redirect.layout import Flag
from redirect.place import Place
from tests.support import mesh
from tests.support.enrolment import World, place, until, where, wish

ONE, TWO = mesh.workload("one", "10.0.0.1", service_account="one"), mesh.workload("two", "10.0.0.2")
BUSY = SigningError("the CA is busy", is_transient=True)


def test_certificate_then_workers_then_kernel_then_the_news(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    answer = world.enroll(1, "one")
    assert (answer["identity"], answer["ifname"]) == ("spiffe://cluster.local/ns/apps/sa/one", "veth1")
    kinds = [kind for kind, row in world.events if row]
    assert kinds == ["certificate", "workers", "workers", "announced"]
    assert world.kernel.last == {"veth1"} and not world.kernel.closed_now
    assert (world.kernel.learnt, world.kernel.closed) == ([1], []), "it stays open until it is served"


def test_a_pod_that_stayed_open_to_be_served_and_cannot_be_is_closed_in_the_same_turn(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.kernel.after_look = lambda: world.store.swap(mesh.snapshot(), Changes(workloads=frozenset({"x"})))
    with pytest.raises(StillWaiting, match="captured and closed"):
        world.enroll(1, "one")
    assert world.kernel.learnt == [1] and world.kernel.closed_now == {"veth1"}


def test_without_a_state_of_the_mesh_nobody_is_taken_in(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.run(world.enroller.take_over)
    with pytest.raises(EnrolmentRefused, match="no complete state"):
        world.enroll(1, "one")
    assert not world.captures.wishes and not any(world.kernel.captures)


def test_a_ca_that_refuses_for_good_means_no_capture(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.certificates.errors["one"] = SigningError("the CA refuses")
    with pytest.raises(EnrolmentRefused, match="CA refuses"):
        world.enroll(1, "one")
    assert not any(world.kernel.captures) and not world.captures.wishes
    assert not world.certificates.in_use, "nobody goes on asking"


@pytest.mark.parametrize(("is_silent", "reason"), [(False, "the CA is busy"), (True, "not issued yet")])
def test_a_ca_that_is_away_closes_the_pod_until_it_is_back(
    tmp_path: Path, is_silent: bool, reason: str
) -> None:
    world = World(tmp_path, ONE)
    world.start()
    if is_silent:
        world.certificates.is_ready = False
    else:
        world.certificates.errors["one"] = BUSY
    with pytest.raises(StillWaiting, match="captured and closed: no certificate for .*: " + reason):
        world.enroll(1, "one")
    assert world.kernel.closed_now == {"veth1"} and world.pods() == [] and not world.kernel.learnt
    assert world.troubles() == [(Missing.CERTIFICATE, "apps/one")]
    assert [identity.service_account for identity in world.certificates.in_use] == ["one"]
    world.certificates.errors.clear()
    world.certificates.is_ready = True
    world.refresh()
    assert world.pods() == ["apps/one"] and not world.troubles()


def test_a_pod_that_is_not_announced_is_closed_and_served_once_it_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    with pytest.raises(
        StillWaiting, match=r"apps/one: captured and closed.*lists no pod apps/one.*`ztun unenroll apps/one`"
    ):
        world.enroll(1, "one")
    assert world.kernel.closed == [1] and world.kernel.closed_now == {"veth1"}
    assert world.troubles() == [(Missing.WORKLOAD, "apps/one")] and world.announced() == []
    world.mesh_says(ONE)
    assert world.certificates.in_use, "asked for as soon as it is known whose"
    assert world.pods() == ["apps/one"] and world.announced() == ["one"]
    assert not world.kernel.closed_now


def test_whoever_waits_is_answered_when_the_pod_is_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()

    async def scenario() -> str:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(world.enroller.enroll(wish(1, "one"), wait_s=30))
            following = group.create_task(world.enroller.follow())
            await until(lambda: bool(world.captures.troubles))
            world.store.swap(mesh.snapshot(ONE), Changes(workloads=frozenset({"x"})))
            answer = await asked
            following.cancel()
        return str(answer["ifname"])

    assert world.run(scenario) == ["veth1"]


def test_un_enrolling_ends_the_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()

    async def let_go() -> None:
        await until(lambda: bool(world.captures.troubles))
        await world.enroller.unenroll(PodKey("apps", "one"))

    async def scenario() -> None:
        asked = world.enroller.enroll(wish(1, "one"), wait_s=30)
        answer, _ = await asyncio.gather(asked, let_go(), return_exceptions=True)
        assert isinstance(answer, EnrolmentRefused) and "has ended meanwhile" in str(answer)

    world.run(scenario)
    assert world.kernel.last == set()


def test_a_pod_the_kernel_refuses_is_not_enrolled_and_as_open_as_before(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.kernel.failing = {1}
    with pytest.raises(EnrolmentRefused, match="apps/one was not captured: veth1: attach"):
        world.enroll(1, "one")
    assert world.pods() == [] and not world.captures.wishes and world.kernel.last == set()
    assert world.announced() == [] and not world.certificates.in_use


def test_another_pods_trouble_neither_fails_this_enrolment_nor_lets_it_go(tmp_path: Path) -> None:
    world = World(tmp_path, ONE, TWO)
    world.start()
    world.enroll(1, "one")
    world.kernel.failing = {1}
    world.enroll(2, "two")
    assert world.pods() == ["apps/one", "apps/two"]
    assert [str(each) for each in world.captures.troubles] == ["pod apps/one: veth1: attach: no such device"]
    world.now_s += 5
    world.refresh()
    assert [each.since_s for each in world.captures.troubles] == [1000.0], "since it was first seen"
    world.kernel.failing = set()
    world.refresh()
    assert world.troubles() == []


@pytest.mark.parametrize(
    "found",
    [
        place(1, refusal="it has more than one interface"),
        replace(place(1), addresses=(parse_ip("10.0.0.9"),)),
    ],
    ids=["not-capturable", "other-address"],
)
def test_a_refused_enrolment_changes_nothing_of_what_is_captured(tmp_path: Path, found: Place) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    before = world.captures.wishes
    kept, world.kernel.places[where(1)] = world.kernel.places[where(1)], found
    with pytest.raises(EnrolmentRefused):
        world.enroll(1, "one")
    world.kernel.places[where(1)] = kept
    world.refresh()
    assert world.kernel.captures[-1] == {place(1)} and world.captures.wishes == before


def test_a_second_wish_that_fails_leaves_the_first(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    before = world.captures.wishes
    world.kernel.places[where(2)] = replace(place(2), addresses=place(1).addresses)
    world.kernel.failing = {2}
    with pytest.raises(EnrolmentRefused, match="veth2: attach"):
        world.enroll(2, "one")
    assert world.captures.wishes == before and world.kernel.captures[-1] == {place(1)}
    assert world.pods() == ["apps/one"]


def test_enrolling_again_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    before = (world.captures.wishes, world.captures.pods)
    world.enroll(1, "one", keep_for_s=9)
    assert not any(world.kernel.kept), "its open connections are the mesh's"
    assert (world.captures.wishes, world.captures.pods) == before


def test_enrolling_again_does_not_hide_that_it_is_closed_by_now(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    world.mesh_says(TWO)
    with pytest.raises(StillWaiting, match="no longer lists it here with account one: closed"):
        world.enroll(1, "one")
    world.mesh_says(ONE)
    world.enroll(1, "one")


def test_of_many_new_pods_a_look_closes_some_and_the_others_follow_by_themselves(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    for number in range(1, 6):
        world.captures.wish(wish(number, f"pod-{number}"), None)
    world.kernel.at_once = 2

    async def scenario() -> None:
        following = asyncio.create_task(world.enroller.follow())
        world.enroller.desk.wake()
        await until(lambda: len(world.kernel.closed) == 5)
        following.cancel()

    before = world.kernel.searches
    world.run(scenario)
    assert world.kernel.searches == before + 3 and world.kernel.closed == [1, 2, 3, 4, 5]
    there = World(tmp_path, ONE)
    there.kernel.at_once = 2
    there.run(there.enroller.take_over)
    assert there.kernel.closed == [1, 2, 3, 4, 5], "an agent that begins has closed all before it goes on"


def test_a_place_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    with pytest.raises(PodNotFound, match="there is no namespace /run/netns/99"):
        world.enroll(99, "one")
    assert not world.captures.wishes


def test_open_connections_are_kept_where_asked_also_after_a_wait(tmp_path: Path) -> None:
    world = World(tmp_path, TWO)
    world.start()
    with pytest.raises(StillWaiting):
        world.enroll(1, "one", keep_for_s=9)
    world.enroll(2, "two")
    assert not any(world.kernel.kept), "not of a pod that is not served yet, nor of another"
    world.mesh_says(ONE, TWO)
    assert [kept for kept in world.kernel.kept if kept] == [{1: 9}]
    assert world.enroll(1, "one")["notes"] == ["keep 1 open connection of veth1"]


def test_an_address_more_than_announced_is_closed_and_said(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.kernel.places[where(1)] = place(1, "10.0.0.1", "10.0.0.77", "fd00::77")
    answer = world.enroll(1, "one")
    assert answer["addresses"] == ["10.0.0.1"]
    assert answer["notes"] == [
        "10.0.0.77, fd00::77 of its interface is not listed by the control plane: closed, packets from it are dropped"
    ]
    assert {place.addresses for place in world.kernel.captures[-1]} == {(parse_ip("10.0.0.1"),)}
    world.mesh_says(mesh.workload("one", "10.0.0.1", "fd00::77", service_account="one"))
    (captured,) = world.kernel.captures[-1]
    assert set(map(str, captured.addresses)) == {"10.0.0.1", "fd00::77"}


def test_a_wish_that_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    (tmp_path / "wishes.draft").mkdir()
    with pytest.raises(EnrolmentRefused, match="cannot be written down"):
        world.enroll(1, "one")
    assert not world.captures.wishes and not any(world.kernel.captures)


def test_peers_hear_of_a_leaving_pod_before_it_goes(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    world.events.clear()
    captures = len(world.kernel.captures)
    world.unenroll("one")
    assert world.events[0] == ("announced", []) and len(world.kernel.captures) == captures + 1
    assert world.kernel.captures[-1] == set() and not world.captures.wishes and not world.file.load()
    assert not world.certificates.in_use
    with pytest.raises(EnrolmentRefused, match="not enrolled here"):
        world.unenroll("one")


def test_a_wish_ends_also_when_its_pod_is_away(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    del world.kernel.places[where(1)]
    world.kernel.present.discard(1)
    world.refresh()
    world.unenroll("one")
    assert not world.captures.wishes and not world.file.load() and not world.troubles()


def test_news_of_the_kernel_lead_to_a_turn(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    world.kernel.present.discard(1)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(world.enroller.follow())
            world.enroller.hear(Heard(frozenset({News.LINKS})))
            await until(lambda: not world.captures.pods)
            following.cancel()

    world.run(scenario)
    assert world.troubles() == [(Missing.INTERFACE, "apps/one")]


def test_what_changes_in_a_pod_while_it_is_found_for_the_first_time_is_looked_at_again(
    tmp_path: Path,
) -> None:
    """A CNI gives it one address after the other: the look may have seen the first alone."""
    world = World(tmp_path, ONE)
    world.start()
    world.kernel.places[where(1)] = replace(place(1), nsid=41)
    world.kernel.after_look = lambda: world.enroller.hear(Heard(elsewhere=frozenset({41, 99})))
    world.enroll(1, "one")
    world.kernel.after_look = lambda: None
    before = len(world.kernel.doubted)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(world.enroller.follow())
            await until(lambda: len(world.kernel.doubted) > before)
            following.cancel()

    world.run(scenario)
    assert world.kernel.doubted[before] == {41}


def test_interfaces_of_others_take_no_turn_until_one_of_them_leads_to_a_pod(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    world.kernel.present.add(77)
    passes = Heard(frozenset({News.LINKS}), links=frozenset({77}), touched=frozenset({77}))

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(world.enroller.follow())
            await until(lambda: world.enroller.desk.passers_by() is None)
            turns = world.kernel.searches
            world.enroller.hear(passes)
            await until(lambda: world.kernel.passers_by == [{77}])
            await until(lambda: 77 in world.captures.interfaces.known)
            assert world.kernel.searches == turns
            world.kernel.concerned.add(77)
            world.enroller.hear(passes)
            await until(lambda: world.kernel.searches > turns)
            following.cancel()

    world.run(scenario)


def test_news_before_the_wishes_are_read_let_nobody_go_and_keep_nobody_from_working(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.kernel.pins = (place(1),)

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(world.enroller.follow())
            world.enroller.hear(Heard(frozenset({News.LINKS}), links=frozenset({77})))
            for _ in range(20):
                await asyncio.sleep(0)
            assert world.kernel.captures == []
            await world.enroller.take_over()
            await world.enroller.adopt()
            following.cancel()

    world.run(scenario)
    assert [captured == {place(1)} for captured in world.kernel.captures] == [True]


def test_whether_connects_are_honest_is_what_was_said_last(tmp_path: Path) -> None:
    world = World(tmp_path, ONE, honesty=Honesty.PODS)
    world.start()

    def is_honest() -> bool:
        (captured,) = world.kernel.captures[-1]
        return Flag.HONEST in captured.treatment

    for asked, expected in ((None, False), (True, True), (False, False), (True, True), (None, False)):
        world.enroll(1, "one", is_honest=asked)
        assert is_honest() is expected, asked
    world.enroll(1, "one", is_honest=True)
    again = World(tmp_path, ONE, kernel=world.kernel, honesty=Honesty.PODS)
    again.start()
    assert is_honest()


def test_honest_connects_are_refused_where_the_agent_has_none(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    with pytest.raises(EnrolmentRefused, match="start it with --honest-connect=pods"):
        world.enroll(1, "one", is_honest=True)
    assert not world.captures.wishes
    world.enroll(1, "one", is_honest=False)
    assert world.pods() == ["apps/one"]


def test_an_agent_that_has_none_any_more_says_whose_connects_are_honest_no_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, ONE, honesty=Honesty.PODS)
    world.start()
    world.enroll(1, "one", is_honest=True)
    again = World(tmp_path, ONE, kernel=world.kernel)
    with caplog.at_level(logging.WARNING):
        again.start()
    assert "pod apps/one asks for honest connects" in caplog.text
    (captured,) = world.kernel.captures[-1]
    assert Flag.HONEST not in captured.treatment
