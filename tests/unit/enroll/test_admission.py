"""A pod that somebody prepared for a proxy inside of it: closed, then cleaned, and only then answered for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.enroll.admission import Admission
from agent.enroll.source import Claim, NotReady, Stance
from agent.enroll.wish import PodKey, WantedBy, Where
from redirect.netns import NamespaceId
from redirect.nf_tables import Chain
from redirect.other_mesh import CannotClean, OtherMesh
from redirect.place import Place
from tests.support import mesh
from tests.support.enrolment import World, place

ONE = mesh.workload("one", "10.0.0.1", service_account="one")
KEY = PodKey("apps", "one")
NAMESPACE = NamespaceId(1, 1)
CLAIM = Claim("u1", Stance.WANTED, "named", Where(handed=NAMESPACE), service_account="one")
FOUND = OtherMesh(chains=(Chain(2, "nat", "ISTIO_OUTPUT"),))


class Source:
    wanted_by = WantedBy.ISTIO_CNI
    knows_all = True
    problem = ""
    way_out = "Label it."

    def claims(self) -> Mapping[PodKey, Claim] | None:
        return {KEY: CLAIM}

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Nothing changes."""

    def turned(self) -> None:
        """Nobody waits."""


class There(World):
    def __init__(self, directory: Path, found: Place) -> None:
        super().__init__(directory, ONE, sources=[Source()])
        self.kernel.places[Where(handed=NAMESPACE)] = found
        self.admission = Admission(self.enroller, self.captures, self.kernel)  # type: ignore[arg-type]

    def admit(self) -> None:
        self.run(lambda: self.admission.admit(KEY, CLAIM, NAMESPACE, 0.0))


def prepared() -> Place:
    return replace(place(1), refusal=FOUND.why, is_cleanable=True, other_mesh=FOUND)


@pytest.mark.parametrize("knows_mesh", [False, True])
def test_it_is_closed_then_cleaned_with_or_without_a_mesh(tmp_path: Path, *, knows_mesh: bool) -> None:
    there = There(tmp_path, prepared())
    there.kernel.ends[Where(handed=NAMESPACE)] = frozenset({1})
    there.run(there.enroller.take_over, *([there.enroller.adopt] if knows_mesh else []))
    there.admit()
    assert there.kernel.closed == [1]
    assert [event.text for event in there.captures.history.events][-1] == (
        "taken out of pod apps/one: iptables chains ISTIO_OUTPUT"
    )
    assert there.captures.is_captured(KEY)
    there.run(there.enroller.adopt)
    there.refresh()
    assert there.pods() == ["apps/one"]


def test_what_cannot_be_taken_out_leaves_it_closed(tmp_path: Path) -> None:
    there = There(tmp_path, prepared())
    there.kernel.ends[Where(handed=NAMESPACE)] = frozenset({1})
    there.start()
    there.kernel.clean_error = CannotClean("iptables-legacy is not installed")
    with pytest.raises(
        NotReady, match=r"closed, and what leads its connections elsewhere stays.*not installed"
    ):
        there.admit()
    assert there.kernel.closed_now == {"veth1"} and there.captures.wishes[KEY].uid == "u1"


def test_nothing_is_taken_out_of_a_pod_that_nothing_was_found_to_lead_to(tmp_path: Path) -> None:
    there = There(tmp_path, prepared())
    there.start()
    with pytest.raises(NotReady):
        there.admit()
    assert there.kernel.places[Where(handed=NAMESPACE)].other_mesh == FOUND


def test_one_that_is_served_already_is_answered_for_at_once(tmp_path: Path) -> None:
    there = There(tmp_path, place(1))
    there.start()
    there.admit()
    there.refresh()
    assert there.pods() == ["apps/one"]
    captures = len(there.kernel.captures)
    there.admit()
    assert there.pods() == ["apps/one"] and len(there.kernel.captures) == captures


def test_one_that_a_person_enrolled_is_answered_for_and_stays_that_persons(tmp_path: Path) -> None:
    there = There(tmp_path, place(1))
    there.start()
    there.enroll(1, "one")
    there.admit()
    assert there.captures.wishes[KEY].wanted_by is WantedBy.COMMAND
    there.kernel.present -= {1}
    with pytest.raises(NotReady):
        there.admit()


def test_its_time_is_limited(tmp_path: Path) -> None:
    there = There(tmp_path, place(1))
    there.kernel.failing = {1}
    there.start()

    async def both() -> None:
        async with asyncio.timeout(10):
            await there.admission.admit(KEY, CLAIM, NAMESPACE, 0.05)

    with pytest.raises(NotReady, match="no such device"):
        asyncio.run(both())
