"""A pod that still carries the rules of another mesh: refused, or cleaned, and never open meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.enroll.enrolled_pod import EnrolmentRefused
from redirect.nf_tables import Chain
from redirect.other_mesh import CannotClean, OtherMesh
from redirect.place import Place
from tests.support import mesh
from tests.support.enrolment import World, place, where, wish

ONE, TWO = mesh.workload("one", "10.0.0.1", service_account="one"), mesh.workload("two", "10.0.0.2")


def in_other_mesh() -> Place:
    found = OtherMesh(chains=(Chain(2, "nat", "ISTIO_OUTPUT"),))
    return replace(place(1), refusal=found.why, is_cleanable=True, other_mesh=found)


def test_a_pod_that_another_mesh_still_holds_is_refused_or_cleaned_once_it_is_closed(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.kernel.places[where(1)] = in_other_mesh()
    with pytest.raises(
        EnrolmentRefused, match="chains ISTIO_OUTPUT; `ztun enroll --clean` takes exactly those"
    ):
        world.enroll(1, "one")
    assert not any(world.kernel.captures) and not world.captures.wishes
    asked = wish(1, "one")
    (answer,) = world.run(lambda: world.enroller.enroll(asked, wait_s=0, is_cleaned=True))
    assert answer["notes"] == ["taken out of the pod: iptables chains ISTIO_OUTPUT"]
    assert world.kernel.closed[0] == 1, "closed first: never open in between"
    assert world.kernel.last == {"veth1"} and not world.kernel.closed_now


def test_what_cannot_be_cleaned_leaves_everything_as_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.kernel.places[where(1)] = in_other_mesh()
    world.kernel.clean_error = CannotClean("iptables-legacy is not installed here")
    for _ in range(2):
        before = len(world.kernel.captures)
        with pytest.raises(
            EnrolmentRefused,
            match="cannot be cleaned: iptables-legacy is not installed",
        ):
            world.run(lambda: world.enroller.enroll(wish(1, "one"), wait_s=0, is_cleaned=True))
        assert len(world.kernel.captures) == before + 1, "what was closed for it is applied anew"
        assert not world.captures.wishes and not world.kernel.last


def test_a_pod_that_is_served_stays_closed_when_it_cannot_be_cleaned(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    world.kernel.places[where(1)] = in_other_mesh()
    world.kernel.clean_error = CannotClean("iptables-legacy is not installed here")
    with pytest.raises(EnrolmentRefused, match="cannot be cleaned"):
        world.run(lambda: world.enroller.enroll(wish(1, "one"), wait_s=0, is_cleaned=True))
    assert world.captures.wishes and world.kernel.closed_now == {"veth1"}
    (trouble,) = world.captures.waiting
    assert "still in another mesh" in str(trouble)


def test_a_pod_that_comes_back_in_another_mesh_is_closed_and_says_so(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, ONE)
    world.start()
    world.enroll(1, "one")
    world.kernel.places[where(1)] = in_other_mesh()
    world.run(world.enroller.mend)
    assert world.kernel.closed_now == {"veth1"}
    (trouble,) = world.captures.waiting
    assert "still in another mesh" in str(trouble) and "--clean" in str(trouble)


def test_a_sidecar_cannot_be_cleaned_away(tmp_path: Path) -> None:
    world = World(tmp_path, ONE)
    world.start()
    found = OtherMesh(listening=(15006,))
    world.kernel.places[where(1)] = replace(place(1), other_mesh=found)
    with pytest.raises(EnrolmentRefused, match="make the pod without its sidecar"):
        world.run(lambda: world.enroller.enroll(wish(1, "one"), wait_s=0, is_cleaned=True))
    assert not any(world.kernel.captures)
