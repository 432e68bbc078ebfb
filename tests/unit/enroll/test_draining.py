"""A pod that leaves the mesh, with time for what the mesh carries: who hears what, and when it is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.enroll import draining
from agent.enroll.enrolled_pod import EnrolmentRefused
from agent.enroll.wish import PodKey
from tests.support import mesh
from tests.support.enrolment import World, until, wish

ONE = mesh.workload("one", "10.0.0.1")
KEY = PodKey("apps", "one")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """With one pod served, and a second for each look."""
    made = World(tmp_path, ONE)
    made.start()
    made.enroll(1, "one")
    monkeypatch.setattr(made.enroller, "_monotonic", lambda: made.now_s)

    async def sleep(_: float) -> None:
        made.now_s += 1
        await asyncio.sleep(0)

    monkeypatch.setattr(draining, "asyncio", SimpleNamespace(sleep=sleep))
    return made


def unenroll(world: World, drain_s: float) -> int:
    (left,) = world.run(lambda: world.enroller.unenroll(KEY, drain_s))
    assert isinstance(left, int)
    return left


def test_it_is_let_go_when_nothing_is_open_any_more(world: World) -> None:
    world.kernel.carrying = [2, 2, 1]
    began_s = world.now_s
    assert unenroll(world, 60) == 0
    assert world.now_s == began_s + 3
    assert [{each.is_draining for each in places} for places in world.kernel.captures[-2:]] == [{True}, set()]
    assert world.pods() == [] and not world.captures.wishes


def test_what_is_left_when_the_time_is_over_is_told(world: World) -> None:
    world.kernel.carrying = [3] * 100
    began_s = world.now_s
    assert unenroll(world, 5) == 3
    assert world.now_s == began_s + 5
    assert not world.kernel.captures[-1]


def test_peers_that_have_not_heard_yet_have_a_moment(world: World) -> None:
    began_s = world.now_s
    assert unenroll(world, 60) == 0
    assert world.now_s - began_s >= draining.LEAST_S


def test_the_control_plane_hears_first_and_workers_go_on_knowing_the_pod(world: World) -> None:
    seen: list[object] = []

    async def look() -> None:
        world.kernel.carrying = [1] * 100
        leaving = asyncio.create_task(world.enroller.unenroll(KEY, 60))
        await until(lambda: len(world.kernel.captures) > 2 or world.captures.is_draining(KEY))
        seen.append((world.announced(), world.pods(), KEY in world.captures.wishes))
        world.kernel.carrying = []
        await leaving

    world.run(look)
    assert seen == [([], ["apps/one"], True)]
    assert world.pods() == []


def test_enrolling_it_again_meanwhile_keeps_it(world: World) -> None:
    async def change_of_mind() -> None:
        world.kernel.carrying = [1] * 100
        leaving = asyncio.create_task(world.enroller.unenroll(KEY, 60))
        await until(lambda: world.captures.is_draining(KEY))
        await world.enroller.enroll(wish(1, "one"), wait_s=0)
        with pytest.raises(EnrolmentRefused, match="was enrolled again while"):
            await leaving

    world.run(change_of_mind)
    assert world.pods() == ["apps/one"] and world.announced() == ["one"]
    assert {each.is_draining for each in world.kernel.captures[-1]} == {False}


def test_one_that_is_not_enrolled_is_refused_at_once(world: World) -> None:
    with pytest.raises(EnrolmentRefused, match="is not enrolled here"):
        world.run(lambda: world.enroller.unenroll(PodKey("apps", "other"), 60))
    assert not world.captures.is_draining(PodKey("apps", "other"))
