"""Pods that run when a source begins to want them: open until they can be served, and no longer than they may be."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.enroll import enroller, runners
from agent.enroll.source import Claim, Stance
from agent.enroll.wish import PodKey
from agent.identity.signer import SigningError
from agent.state.apply import Changes
from tests.support import mesh
from tests.support.enrolment import World, place, until, where
from tests.support.wishing_source import KEY, ONE, Source, world


def running(path: Path, source: Source, *, keep_existing_s: float = 0.0) -> World:
    """A pod that runs, and that the source does not want yet."""
    there = world(path, source, keep_existing_s=keep_existing_s)
    source.refuses(is_running=True)
    source.changed()
    there.refresh()
    return there


def followed(there: World, source: Source, holds: Callable[[], bool]) -> None:
    """The enroller follows what the source says now, until it holds."""

    async def scenario() -> None:
        following = asyncio.create_task(there.enroller.follow())
        source.changed()
        await until(holds)
        following.cancel()

    there.run(scenario)


def test_a_pod_that_runs_is_open_until_it_is_served(tmp_path: Path) -> None:
    source = Source()
    there = running(tmp_path, source)
    source.wants(is_running=True)
    there.certificates.is_ready = False
    there.refresh()
    assert not there.captures.wishes and not there.kernel.closed, "its certificate is not there yet"
    there.certificates.is_ready = True
    followed(there, source, lambda: there.pods() == ["apps/one"])
    assert there.kernel.learnt == [1] and not there.kernel.closed
    assert not any(there.kernel.kept), "what was open is reset"
    source.refuses(is_running=True)
    followed(there, source, lambda: not there.pods())
    source.wants(is_running=True)
    followed(there, source, lambda: there.pods() == ["apps/one"])
    assert there.kernel.learnt == [1, 1] and not there.kernel.closed, "and so each time"


def test_what_it_has_open_goes_on_for_as_long_as_the_node_says(tmp_path: Path) -> None:
    source = Source()
    there = running(tmp_path, source, keep_existing_s=30)
    source.wants(is_running=True)
    followed(there, source, lambda: there.pods() == ["apps/one"])
    assert {1: 30} in there.kernel.kept and there.captures.notes
    source.refuses(is_running=True)
    there.refresh()
    there.kernel.kept.clear()
    there.enroll(1, "one")
    assert {1: 30} not in there.kernel.kept, "a person says it for each pod"


@pytest.mark.parametrize("before", ["nothing", "it was not there yet", "another of its name"])
def test_a_pod_that_begins_is_closed_at_first_sight(tmp_path: Path, before: str) -> None:
    source = Source()
    there = world(tmp_path, source)
    if before == "another of its name":
        source.refuses("u0", is_running=True)
    elif before == "it was not there yet":
        source.refuses()
    source.changed()
    there.refresh()
    source.wants(is_running=True)
    there.refresh()
    assert there.kernel.closed == [1] and not there.kernel.learnt


def test_whose_start_waits_is_closed_although_one_of_its_name_ran(tmp_path: Path) -> None:
    """A sandbox that is made again: nobody waits for a certificate with its interface open."""
    source = Source()
    there = running(tmp_path, source)
    source.wants(2, is_running=True)
    there.kernel.places[where(2)] = place(2, "10.0.0.1")
    assert source.now is not None
    there.run(lambda: there.enroller.captured(KEY, source.now[KEY], 0))
    assert there.kernel.closed == [2] and not there.kernel.learnt


def test_without_a_certificate_it_is_closed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enroller, "LOOK_AGAIN_S", 0.001)  # nobody tells of what does not come
    monkeypatch.setattr(runners, "OPEN_PATIENCE_S", 0.05)
    source = Source()
    there = running(tmp_path, source)
    there.certificates.errors["one"] = SigningError("the CA is away", is_transient=True)
    source.wants(is_running=True)
    there.refresh()
    assert not there.kernel.closed and not there.captures.wishes
    followed(there, source, lambda: KEY in there.captures.wishes and bool(there.captures.waiting))
    assert there.kernel.closed == [1] and not there.kernel.learnt and not there.pods()
    there.certificates.errors.clear()
    there.refresh()
    assert there.pods() == ["apps/one"]


def test_one_that_the_control_plane_does_not_list_is_closed_at_once(tmp_path: Path) -> None:
    source = Source()
    there = running(tmp_path, source)
    there.mesh_says()
    source.wants(is_running=True)
    there.refresh()
    assert there.kernel.closed == [1] and not there.kernel.learnt
    there.mesh_says(ONE)
    assert there.pods() == ["apps/one"]


def test_a_label_that_is_taken_back_meanwhile_changes_nothing(tmp_path: Path) -> None:
    source = Source()
    there = running(tmp_path, source)
    there.certificates.is_ready = False
    source.wants(is_running=True)

    async def scenario() -> None:
        await there.enroller.refresh()
        assert [each.service_account for each in there.certificates.in_use] == ["one"]
        source.refuses(is_running=True)
        await there.enroller.refresh()

    there.run(scenario)
    assert not there.certificates.in_use, "nobody needs it"
    assert not there.captures.wishes and not there.kernel.closed and not there.kernel.learnt


def test_a_namespace_full_of_them_is_taken_in_turn_by_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts that wait go between, and none of them is closed meanwhile."""
    source = Source()
    there = running(tmp_path, source)
    monkeypatch.setattr(runners, "AT_ONCE", 2)
    numbers = range(1, 6)
    names = {number: PodKey("apps", f"p{number}") for number in numbers}
    there.store.swap(
        mesh.snapshot(*(mesh.workload(f"p{n}", f"10.0.0.{n}", service_account="one") for n in numbers)),
        Changes(workloads=frozenset({"x"})),
    )
    sizes: list[int] = []
    there.kernel.after_look = lambda: sizes.append(len(there.kernel.learnt))

    def say(stance: Stance) -> None:
        source.now = {
            names[n]: Claim(
                f"u{n}", stance, "", where(n) if stance is Stance.WANTED else None, is_running=True
            )
            for n in numbers
        }
        source.changed()

    say(Stance.UNWANTED)
    there.refresh()
    sizes.clear()
    say(Stance.WANTED)
    followed(there, source, lambda: len(there.pods()) == len(numbers))
    assert sorted(there.kernel.learnt) == list(numbers) and not there.kernel.closed
    steps = [later - earlier for earlier, later in itertools.pairwise(sizes)]
    assert max(steps) == 2, f"at once: {sizes}"
