"""Wishes that come from a source: what is captured, served, let go and kept closed as it changes its mind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.news import News
from agent.enroll.source import Claim, NotReady, Stance
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey, WantedBy, Where
from agent.state.apply import Changes
from tests.support import mesh
from tests.support.enrolment import FakeKernel, World, place, until, where
from tests.support.wishing_source import KEY, Source, world


def test_one_that_does_not_know_all_yet_ends_nothing(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    source.now, source.knows_all = {}, False
    turn(there)
    assert there.pods() == ["apps/one"]
    source.knows_all = True
    turn(there)
    assert not there.pods() and there.kernel.closed_now == {"veth1"}


def test_it_wishes_anew_for_pods_whose_record_is_damaged_and_for_no_others(tmp_path: Path) -> None:
    """One that a person had enrolled is not opened either, though the source does not want it."""
    (tmp_path / "wishes.json").write_text("")
    source, kernel = Source(), FakeKernel()
    source.now = {
        KEY: Claim("u1", Stance.WANTED, "labelled", where(1)),
        PodKey("apps", "two"): Claim("u2", Stance.UNWANTED, "unlabelled"),
    }
    kernel.pins = replace(place(1), owner="apps/one u1"), replace(place(2), owner="apps/two")
    there = world(tmp_path, source, kernel)
    assert kernel.captures[-1] == {place(1), place(2)}
    turn(there)
    assert there.pods() == ["apps/one"] and kernel.captures[-1] == {place(1), place(2)}
    assert there.troubles() == [(Missing.POD, "None"), (Missing.RECORD, "None")]
    assert "for pod apps/two" in str(there.captures.troubles[0])


def turn(there: World) -> None:
    """One that takes the wish in, and one that the certificate wakes."""
    there.refresh()
    there.refresh()


def test_wanted_is_captured_and_served_and_unwanted_is_let_go(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    assert not there.captures.wishes
    source.wants()
    turn(there)
    assert there.pods() == ["apps/one"] and there.kernel.last == {"veth1"} and there.announced() == ["one"]
    assert there.kernel.owners == {"veth1": "apps/one u1"}
    source.refuses()
    there.refresh()
    assert not there.pods() and not there.kernel.last and there.announced() == []
    assert [each.text for each in there.captures.history.events][-1] == "pod apps/one is let go: unlabelled"


def test_a_source_that_does_not_know_lets_nobody_go_across_a_restart_too(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    again = world(tmp_path, Source(), there.kernel)
    turn(again)
    assert again.pods() == ["apps/one"] and again.kernel.last == {"veth1"}


def test_a_pod_that_is_gone_stays_closed_until_its_interface_goes(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    source.now = {}
    turn(there)
    assert not there.captures.wishes and there.kernel.closed_now == {"veth1"} and not there.pods()
    assert there.announced() == [], "peers do not try it any longer"
    assert not there.troubles(), "nothing is wrong"
    there.kernel.present.discard(1)
    there.refresh()
    assert not there.kernel.last and not there.captures._gone


def test_one_made_again_with_the_same_address_is_served_and_the_old_one_closed(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    there.kernel.places[where(2)] = place(2, "10.0.0.1")
    source.wants(2, "u2")
    turn(there)
    assert there.pods() == ["apps/one"] and there.kernel.last == {"veth1", "veth2"}
    assert there.kernel.closed_now == {"veth1"}
    assert there.kernel.owners == {"veth1": "apps/one u1", "veth2": "apps/one u2"}


@pytest.mark.parametrize(("says", "last"), [("gone", {"veth1"}), ("unwanted", set()), ("wanted", {"veth1"})])
def test_without_its_wishes_a_restart_knows_the_pods_by_their_pins(
    tmp_path: Path, says: str, last: set[str]
) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    (tmp_path / "wishes.json").unlink()
    there.kernel.pins = tuple(
        place(1).__class__(1, "veth1", place(1).addresses, place(1).mac, (), owner="apps/one u1") for _ in "1"
    )
    later = Source()
    again = world(tmp_path, later, there.kernel)
    assert again.kernel.last == {"veth1"}
    (trouble,) = again.captures.troubles
    assert "for pod apps/one, and nobody wants that" in str(trouble) and "ztun enroll apps/one" in str(
        trouble
    )
    later.now = {}
    if says == "wanted":
        later.wants()
    elif says == "unwanted":
        later.refuses()
    turn(again)
    assert again.kernel.last == last and not again.captures.troubles
    assert again.pods() == (["apps/one"] if says == "wanted" else [])


def test_a_person_cannot_let_go_what_a_source_wants_and_is_told_how(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    with pytest.raises(
        EnrolmentRefused, match=r"stays captured: Kubernetes wants it \(labelled\)\. Label it"
    ):
        there.unenroll("one")
    assert there.pods() == ["apps/one"]


def test_what_a_person_enrolled_goes_to_the_source_when_the_person_lets_go(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    there.enroll(1, "one")
    source.wants()
    turn(there)
    assert there.captures.wishes[KEY].wanted_by is WantedBy.COMMAND
    with pytest.raises(EnrolmentRefused, match="stays captured"):
        there.unenroll("one")
    turn(there)
    assert there.captures.wishes[KEY].wanted_by is WantedBy.KUBERNETES and there.pods() == ["apps/one"]
    source.refuses()
    there.refresh()
    assert not there.captures.wishes


def test_what_a_person_enrolled_outlives_what_a_source_says(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    there.enroll(1, "one")
    source.refuses("")
    there.refresh()
    assert there.pods() == ["apps/one"]
    there.unenroll("one")
    assert not there.kernel.last


def test_a_pod_whose_network_is_elsewhere_is_closed_and_named(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.now = {KEY: Claim("u1", Stance.WANTED, "labelled", Where(netns="/run/netns/none"))}
    turn(there)
    (trouble,) = there.captures.troubles
    assert "there is no namespace /run/netns/none" in str(trouble)


def test_who_waits_for_a_capture_is_not_told_of_the_sandbox_before(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    assert source.now is not None
    before = source.now[KEY]
    there.run(lambda: there.enroller.captured(KEY, before, 0))
    source.wants(2)
    del there.kernel.places[where(2)]
    with pytest.raises(NotReady):
        there.run(lambda: there.enroller.captured(KEY, source.now[KEY], 0))
    there.kernel.places[where(2)] = place(2, "10.0.0.1")
    turn(there)
    there.run(lambda: there.enroller.captured(KEY, source.now[KEY], 0))
    with pytest.raises(NotReady):
        there.run(lambda: there.enroller.captured(KEY, before, 0))


def test_a_pod_whose_start_waits_is_captured_without_a_look_at_the_others(tmp_path: Path) -> None:
    """What a start waits for does not grow with the pods of the node, and nothing is applied for one that is closed."""
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    source.wants(2, "u2")
    assert source.now is not None
    applied = len(there.kernel.captures)
    there.store.swap(mesh.snapshot(), Changes(workloads=frozenset({"x"})))
    there.run(lambda: there.enroller.captured(KEY, source.now[KEY], 0))
    assert there.kernel.looked_for == ["one"] and there.kernel.closed[-1] == 2
    assert len(there.kernel.captures) == applied, "no turn for everybody"
    there.run(lambda: there.captures.turn(News(is_of_node=False)))
    assert there.kernel.changed[applied:] == [{1}], "the interface before, which is served no longer"
    assert there.kernel.closed_now >= {"veth2"} and there.captures.is_captured(KEY)
    assert there.file.load()[KEY].uid == "u2"
    there.mesh_says(mesh.workload("one", "10.0.0.2", service_account="one"))
    assert there.pods() == ["apps/one"]


def test_what_changes_no_wish_takes_no_turn(tmp_path: Path) -> None:
    """Of a pod that is about to start, first of all: it would wait until all others had been looked at."""
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    turn(there)
    assert source.now is not None
    wanted = source.now[KEY]
    two, three = PodKey("apps", "two"), PodKey("apps", "three")

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(there.enroller.follow())
            await settled()
            turns = there.kernel.searches
            source.now = {
                KEY: wanted,
                two: Claim("u2", Stance.UNDECIDED, "it has no address yet"),
                three: Claim("u3", Stance.UNWANTED, "it has opted out"),
            }
            source.changed()
            await settled()
            assert there.kernel.searches == turns, "all pods were looked at"
            source.now = source.now | {two: Claim("u2", Stance.WANTED, "labelled", where(2))}
            source.changed()
            await until(lambda: two in there.captures.wishes and there.kernel.searches > turns)
            following.cancel()

    there.run(scenario)


async def settled() -> None:
    """What was woken has run as far as it can."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_the_second_direction_is_closed_behind_the_start_and_ahead_of_everything_else(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    source.wants()
    assert source.now is not None
    claim = source.now[KEY]
    there.kernel.failing_to_finish.add(1)

    async def scenario() -> None:
        await there.enroller.captured(KEY, claim, 0)
        assert not there.kernel.finished, "the start does not wait for it"
        turns = there.kernel.searches
        await there.enroller.refresh()
        assert there.kernel.finished == [1] and there.kernel.searches > turns, "a turn does"

    there.run(scenario)
    assert there.kernel.changed[-1] is None, "what failed is tried again, and everything looked at for it"


def test_one_that_the_kernel_does_not_close_is_not_said_to_be_captured(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    there.kernel.failing_to_close.add(1)
    source.wants()
    assert source.now is not None
    with pytest.raises(NotReady):
        there.run(lambda: there.enroller.captured(KEY, source.now[KEY], 0))
    there.kernel.failing_to_close.clear()
    there.run(lambda: there.enroller.captured(KEY, source.now[KEY], 0))


def test_only_what_changed_is_applied_unless_something_happened_to_the_node(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    there.run(lambda: there.captures.turn(News(is_of_node=True)))
    assert there.kernel.changed[-1] is None
    source.wants()
    there.enroller.desk.wake()
    for _ in range(2):  # one that takes the wish in, and one that the certificate wakes
        there.run(lambda: there.enroller.refresh())
    assert there.pods() == ["apps/one"] and there.kernel.changed[-1] == {1}
    source.refuses()
    there.refresh()
    assert not there.pods() and there.kernel.changed[-1] == {1} and not there.kernel.last
    there.run(lambda: there.enroller.mend())
    assert there.kernel.changed[-1] is None
    there.run(lambda: there.captures.turn(News(is_of_node=False, touched=frozenset({1}))))
    assert there.kernel.changed[-1] == {1}, "also where nothing seems to differ"


def test_a_sandbox_whose_interface_cannot_be_captured_says_why(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    there.kernel.places[where(1)] = place(1, refusal="its interface eth0 is of kind ipvlan")
    source.wants()
    turn(there)
    assert source.now is not None
    claim = source.now[KEY]
    with pytest.raises(NotReady, match="ipvlan"):
        there.run(lambda: there.enroller.captured(KEY, claim, 0))
