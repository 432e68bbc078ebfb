"""Wishes outlive interfaces and agents: what stays captured, what stays closed, and what is let go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.enroll.enroller import StillWaiting
from agent.enroll.news import News
from agent.enroll.trouble import Missing
from agent.enroll.wish import PodKey
from agent.model.address import parse_ip
from agent.state.apply import Changes
from tests.support import mesh
from tests.support.enrolment import World, moved, place, where

ONE, TWO = mesh.workload("one", "10.0.0.1", service_account="one"), mesh.workload("two", "10.0.0.2")
KEY = PodKey("apps", "one")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """With pod `one` served on veth1."""
    made = World(tmp_path, ONE, TWO)
    made.start()
    made.enroll(1, "one")
    return made


def go_away(world: World) -> None:
    world.kernel.present.discard(1)
    world.refresh()


def test_an_interface_that_goes_leaves_the_wish_waiting_and_named(world: World) -> None:
    go_away(world)
    assert world.pods() == [] and world.kernel.last == set()
    assert world.troubles() == [(Missing.INTERFACE, "apps/one")]
    (trouble,) = world.captures.troubles
    assert "not there" in str(trouble) and "`ztun unenroll apps/one`" in str(trouble)
    assert [event.pod for event in world.captures.history.events][-1] == KEY


def test_peers_go_on_dialling_a_pod_in_the_mesh_while_it_is_away(world: World) -> None:
    """As soon as the control plane calls it plain, peers would send to it in clear."""
    go_away(world)
    assert world.announced() == ["one"]
    assert [identity.service_account for identity in world.certificates.in_use] == ["one"]


def test_a_new_interface_of_the_same_namespace_is_captured_and_served(world: World) -> None:
    go_away(world)
    world.kernel.places[where(1)] = moved(place(1), 5, namespace=1)
    world.refresh()
    assert world.kernel.closed == [5], "closed at first sight"
    assert world.kernel.last == {"veth5"} and not world.kernel.closed_now
    assert world.pods() == ["apps/one"] and not world.troubles()


def test_how_long_it_was_open_is_in_the_history(world: World) -> None:
    go_away(world)
    world.kernel.places[where(1)] = moved(place(1), 5, namespace=1)
    world.run(lambda: world.captures.turn(News(told_s=1.0)))
    texts = [event.text for event in world.captures.history.events]
    assert any("veth5 (interface 5)" in text and "open for 2 ms at most, 3 packets" in text for text in texts)


def test_what_leads_to_the_pod_is_closed_before_it_has_an_address(world: World) -> None:
    go_away(world)
    world.kernel.places[where(1)] = replace(
        moved(place(1), 5, namespace=1), refusal="its namespace has no interface with an address"
    )
    world.kernel.ends[where(1)] = frozenset({5})
    world.refresh()
    assert world.kernel.closed_now == {"veth5"} and world.pods() == []
    assert world.troubles() == [(Missing.INTERFACE, "apps/one")]


def test_a_pod_that_comes_back_in_another_namespace_under_its_path_is_served(world: World) -> None:
    go_away(world)
    del world.kernel.places[where(1)]
    world.refresh()
    assert world.troubles() == [(Missing.NAMESPACE, "apps/one")]
    world.kernel.places[where(1)] = moved(place(1), 6, namespace=60)
    world.refresh()
    assert world.kernel.last == {"veth6"} and world.pods() == ["apps/one"]


def test_a_pod_that_comes_back_with_addresses_that_are_not_its_own_stays_closed(world: World) -> None:
    go_away(world)
    other = replace(moved(place(1), 6, namespace=60), addresses=(parse_ip("10.0.0.9"),))
    world.kernel.places[where(1)] = other
    world.refresh()
    assert world.kernel.closed_now == {"veth6"} and world.pods() == []
    assert world.troubles() == [(Missing.ADDRESS, "apps/one")]


def test_the_former_interface_stays_closed_while_it_exists(world: World) -> None:
    """The path leads to another namespace now; the pod of the old one must not talk in clear."""
    world.kernel.places[where(1)] = moved(place(1), 6, namespace=60)
    world.refresh()
    assert world.pods() == ["apps/one"]
    assert world.kernel.last == {"veth1", "veth6"} and world.kernel.closed_now == {"veth1"}
    world.unenroll("one")
    assert world.kernel.last == set()


def test_a_second_way_to_the_pod_is_closed(world: World) -> None:
    world.kernel.ends[where(1)] = frozenset({4})
    world.refresh()
    assert world.kernel.closed_now == {"veth4"} and world.pods() == ["apps/one"]


def test_a_served_pod_that_can_no_longer_be_captured_whole_is_in_trouble_but_stays(world: World) -> None:
    world.kernel.places[where(1)] = place(1, refusal="it has addresses on more than one interface")
    world.kernel.ends[where(1)] = frozenset({1, 4})
    world.refresh()
    assert world.pods() == ["apps/one"] and world.kernel.last == {"veth1", "veth4"}
    assert world.troubles() == [(Missing.INTERFACE, "apps/one")]


def test_an_absent_pod_that_the_control_plane_does_not_list_either_is_no_trouble(world: World) -> None:
    go_away(world)
    world.mesh_says(TWO)
    assert world.troubles() == []
    assert [(each.pod, each.is_expected) for each in world.captures.waiting] == [(KEY, True)]
    world.kernel.present.add(1)
    world.refresh()
    assert world.kernel.last == {"veth1"}, "but as soon as it is there, it is captured"


def test_a_pod_that_the_mesh_no_longer_lists_stays_captured_and_in_trouble(world: World) -> None:
    world.store.swap(mesh.snapshot(TWO), mesh_change())
    assert world.troubles() == [(Missing.WORKLOAD, "apps/one")], "at once"
    world.refresh()
    assert world.kernel.captures[-1] == {place(1)}


def test_another_account_does_not_speak_for_the_pod_of_a_namespace(world: World) -> None:
    world.mesh_says(mesh.workload("one", "10.0.0.1", service_account="other"), TWO)
    assert world.troubles() == [(Missing.WORKLOAD, "apps/one")]
    assert [pod.service_account for pod in world.captures.pods.values()] == ["one"]
    world.mesh_says(ONE, TWO)
    assert world.troubles() == []


def test_enrolling_again_makes_the_pod_who_the_control_plane_says_it_is(world: World) -> None:
    world.mesh_says(mesh.workload("one", "10.0.0.1", service_account="other"), TWO)
    assert world.enroll(1, "one")["identity"] == "spiffe://cluster.local/ns/apps/sa/other"
    assert not world.troubles() and world.announced() == ["one"]
    (bound,) = [wish.bound for wish in world.file.load().values()]
    assert bound is not None and bound.service_account == "other"


def test_a_pod_whose_addresses_are_all_another_ones_now_is_in_trouble(world: World) -> None:
    world.mesh_says(mesh.workload("one", "10.0.0.8", service_account="one"), TWO)
    assert world.troubles() == [(Missing.ADDRESS, "apps/one")]


def test_a_newcomer_does_not_take_an_address_from_a_served_pod(world: World) -> None:
    world.kernel.places[where(3)] = place(3, "10.0.0.1")
    both = mesh.workload("two", "10.0.0.1")
    world.store.swap(mesh.snapshot(ONE, both), mesh_change())
    with pytest.raises(Exception, match="apps/one is enrolled with an address of apps/two"):
        world.enroll(3, "two")
    assert world.kernel.captures[-1] == {place(1)}


def test_the_next_agent_finds_the_pod_by_its_wish(world: World, tmp_path: Path) -> None:
    world.kernel.pins = (place(1),)
    after = World(tmp_path, ONE, TWO, kernel=world.kernel)
    applied = len(world.kernel.captures)
    after.run(after.enroller.take_over)
    assert len(after.kernel.captures) == applied, "as it was, before anything is known of the mesh"
    assert ("workers", []) not in after.events, "workers that are still there keep what they have"
    after.run(after.enroller.adopt)
    assert after.pods() == ["apps/one"] and not after.troubles() and after.announced() == ["one"]


def test_the_next_agent_closes_what_came_while_nobody_looked(world: World, tmp_path: Path) -> None:
    world.kernel.places[where(1)] = moved(place(1), 5, namespace=1)
    world.kernel.present.discard(1)
    after = World(tmp_path, ONE, kernel=world.kernel)
    after.run(after.enroller.take_over)
    assert after.kernel.closed[-1] == 5, "also before the control plane is there"
    assert any("open before this agent saw it" in event.text for event in after.captures.history.events)
    after.run(after.enroller.adopt)
    assert after.pods() == ["apps/one"]


def test_an_address_alone_does_not_make_a_captured_interface_a_pod(tmp_path: Path) -> None:
    """The pins know addresses, no names; without a wish nobody can say whose they are."""
    world = World(tmp_path, ONE)
    world.kernel.pins = (place(1),)
    world.start()
    assert world.pods() == [] and world.kernel.captures[-1] == {place(1)}
    assert world.troubles() == [(Missing.POD, "None")]
    assert "--ifname veth1" in str(world.captures.troubles[0])
    world.enroll(1, "one")
    assert world.pods() == ["apps/one"] and not world.troubles()


def test_a_bound_pod_of_the_pins_that_nobody_lists_keeps_what_it_had(world: World, tmp_path: Path) -> None:
    world.kernel.pins = (place(1),)
    after = World(tmp_path, kernel=world.kernel)
    after.start()
    assert after.kernel.captures[-1] == {place(1)} and after.troubles() == [(Missing.WORKLOAD, "apps/one")]
    after.mesh_says(ONE)
    assert after.pods() == ["apps/one"]


def test_a_waiting_wish_outlives_the_agent_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    with pytest.raises(StillWaiting):
        world.enroll(1, "one")
    after = World(tmp_path, ONE, kernel=world.kernel)
    after.start()
    after.refresh()
    assert after.pods() == ["apps/one"]


def test_a_wish_by_a_process_ends_with_it(world: World) -> None:
    del world.kernel.places[where(1)]
    world.kernel.present.discard(1)
    world.kernel.missing = Missing.PROCESS
    world.refresh()
    assert not world.captures.wishes and not world.file.load() and not world.captures.waiting
    assert world.announced() == []


def test_a_process_that_ends_before_its_namespace_leaves_the_pod_captured(world: World) -> None:
    world.kernel.ends[where(1)] = frozenset({1})
    del world.kernel.places[where(1)]
    world.kernel.missing = Missing.PROCESS
    world.refresh()
    assert KEY in world.captures.wishes and world.kernel.last == {"veth1"}


def test_a_node_whose_links_cannot_be_listed_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unlistable(*_: object) -> None:
        raise OSError("the kernel's links change too fast to be listed")

    monkeypatch.setattr(world.kernel, "search", unlistable)
    captures = len(world.kernel.captures)
    world.refresh()
    assert world.pods() == ["apps/one"] and len(world.kernel.captures) == captures
    assert world.troubles() == [(Missing.CAPTURE, "None")]


def test_a_record_that_cannot_be_kept_is_a_trouble_until_it_can(world: World, tmp_path: Path) -> None:
    (tmp_path / "wishes.draft").mkdir()
    world.unenroll("one")
    assert world.kernel.last == set(), "the pod is let go all the same"
    assert world.troubles() == [(Missing.RECORD, "None")]
    (tmp_path / "wishes.draft").rmdir()
    world.refresh()
    assert not world.troubles() and not world.file.load()


@pytest.mark.parametrize("harm", ["cut", "emptied", "no record", "directory"])
def test_a_damaged_record_opens_nobody_and_keeps_no_agent_from_starting(
    world: World, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, aside = tmp_path / "wishes.json", tmp_path / "wishes.damaged"
    world.enroll(2, "two")
    whole = path.read_bytes()
    if harm == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"cut": whole[:-9], "emptied": b"", "no record": b"[]"}[harm])
    world.kernel.pins = (replace(place(1), owner="apps/one"), place(2))
    after = World(tmp_path, ONE, TWO, kernel=world.kernel)
    after.run(after.enroller.take_over)
    assert after.troubles() == [(Missing.RECORD, "None")], "also before the control plane is there"
    assert after.kernel.captures[-1] == {place(1), place(2)} and not after.pods()
    after.run(after.enroller.adopt)
    assert after.kernel.captures[-1] == {place(1), place(2)} and not after.pods(), (
        "nobody is opened or guessed"
    )
    assert after.troubles() == [(Missing.POD, "None"), (Missing.POD, "None"), (Missing.RECORD, "None")]
    one, two, record = map(str, after.captures.troubles)
    assert "veth1 is captured, for pod apps/one" in one and "--ifname veth2" in two
    assert str(aside) in record and f"then remove {aside}" in record
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert f"{path} is damaged (" in line and str(aside) in line
    assert aside.is_dir() if harm == "directory" else aside.read_bytes() in whole + b"[]"
    after.enroll(1, "one")
    assert after.pods() == ["apps/one"] and after.kernel.captures[-1] == {place(1), place(2)}

    third = World(tmp_path, ONE, TWO, kernel=world.kernel)
    third.start()
    assert third.pods() == ["apps/one"]
    assert (Missing.RECORD, "None") in third.troubles(), "nobody has looked after the others yet"
    third.enroll(2, "two")
    aside.rmdir() if harm == "directory" else aside.unlink()
    third.refresh()
    assert third.pods() == ["apps/one", "apps/two"] and not third.troubles()


def test_nothing_is_applied_twice_without_need(world: World) -> None:
    count = len(world.kernel.captures)
    world.run(lambda: world.captures.turn(News(is_of_node=False)))
    assert len(world.kernel.captures) == count
    world.run(lambda: world.captures.turn(News(is_of_node=True)))
    assert len(world.kernel.captures) == count + 1


def mesh_change() -> Changes:
    return Changes(workloads=frozenset({"x"}))
