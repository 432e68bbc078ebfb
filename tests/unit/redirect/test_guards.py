"""Which interfaces get guards, in which turn, and what is said of those that get none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from redirect import guards, tc_rows
from redirect.errors import StepFailed
from redirect.filters import Attachment, Filters
from redirect.guards import AT_ONCE, Guards
from redirect.layout import GUARDS
from redirect.pins import Pins

Place = tuple[int, str]


class Kernel:
    """Filters of a node in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.filters: dict[Place, Attachment] = {}
        self.closed_to: set[int] = set()
        self.moved: list[Place] = []
        self.comes_back = False
        monkeypatch.setattr(
            tc_rows, "ingress_qdiscs", lambda: dict.fromkeys({at for at, _ in self.filters}, "clsact")
        )

        class Fake(guards.Filters):
            def put(_, ifindex: int, program: str, prog_fd: int, kind: str) -> None:
                if ifindex in self.closed_to:
                    raise StepFailed(f"attach {program}", "it has an `ingress` qdisc")
                self.filters[ifindex, program] = Attachment(prog_fd)

            def move_ahead(_, ifindex: int, program: str, prog_fd: int) -> None:
                self.moved.append((ifindex, program))
                if not self.comes_back:
                    self.filters[ifindex, program] = Attachment(prog_fd)

            def detach(_, ifindex: int, program: str) -> None:
                self.filters.pop((ifindex, program), None)

            def attached(_) -> dict[Place, Attachment]:
                return dict(self.filters)

            def attached_at(_, ifindex: int) -> dict[Place, Attachment]:
                return {place: each for place, each in self.filters.items() if place[0] == ifindex}

        monkeypatch.setattr(guards, "Filters", Fake)

    def guards(self, tmp_path: Path, generation: int = 0) -> Guards:
        number: Callable[[str], int] = lambda guard: GUARDS.index(guard) + 10 * generation + 1  # noqa: E731
        pins = Pins("t", tmp_path)
        return Guards("t", pins, Filters("t", pins), number, number)

    def at(self) -> list[int]:
        return sorted({ifindex for ifindex, _ in self.filters})


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def whole(ifindex: int) -> bool:
    return True


def test_some_at_a_time_and_what_is_taken_off_is_put_again(kernel: Kernel, tmp_path: Path) -> None:
    made, pods = kernel.guards(tmp_path), range(1, AT_ONCE + 9)
    assert len(made.keep(pods, whole)) == AT_ONCE * len(GUARDS)
    assert len(made.keep(pods, whole)) == 8 * len(GUARDS)
    assert kernel.at() == [*pods] and made.keep(pods, whole) == []
    # One whose clsact is gone is seen in the next turn, one without a filter when it is looked at.
    for place in [place for place in kernel.filters if place[0] == 3]:
        del kernel.filters[place]
    assert len(made.keep(pods, whole)) == len(GUARDS)
    del kernel.filters[4, GUARDS[0]]
    said = [line for _ in range(3) for line in made.keep(pods, whole)]
    assert said == [f"put {GUARDS[0]} at interface 4"]


def test_all_that_are_to_get_one_while_there_is_time_and_no_more_looks_than_ever_after_that(
    kernel: Kernel, tmp_path: Path
) -> None:
    made, pods, looks = kernel.guards(tmp_path), range(1, 10 * AT_ONCE), []

    def is_whole(ifindex: int) -> bool:
        looks.append(ifindex)
        return len(looks) > AT_ONCE  # the first are links by the next turn

    made.keep(pods, is_whole, 60)
    assert kernel.at() == [*pods][AT_ONCE:]
    made.keep(pods, is_whole, 60)
    assert kernel.at() == [*pods]
    looks.clear()
    made.keep(pods, is_whole, 60)
    assert len(looks) == AT_ONCE


def test_one_behind_a_filter_of_others_goes_ahead_and_is_told_where_that_is_in_vain(
    kernel: Kernel, tmp_path: Path
) -> None:
    made, (guard, other) = kernel.guards(tmp_path), GUARDS
    made.keep([1], whole)
    kernel.filters[1, guard] = Attachment(1, "filter x, program 9")
    assert made.keep([1], whole) == [f"put {guard} of interface 1 before filter x, program 9"]
    assert kernel.moved == [(1, guard)] and made.keep([1], whole) == [] and not made.behind
    kernel.comes_back, kernel.filters[1, other] = True, Attachment(2, "filter x, program 9")
    said = [line for _ in range(6) for line in made.keep([1], whole)]
    assert kernel.moved[1:] == [(1, other)] * 3
    why = f"filter x, program 9 has packets before {other}"
    assert made.behind == {1: why} and said[3:] == [
        f"interface 1 has no guard: {why}, and came back each time"
    ]
    kernel.filters[1, other] = Attachment(2)
    assert made.keep([1], whole) == [] and not made.behind


def test_none_where_the_program_before_it_is_not_there(kernel: Kernel, tmp_path: Path) -> None:
    """It would drop all."""
    made = kernel.guards(tmp_path)
    made.keep([1, 2], lambda ifindex: ifindex != 2)
    assert kernel.at() == [1]
    made.keep([1, 2], whole)
    assert kernel.at() == [1, 2]


def test_those_of_an_agent_before_are_renewed_and_taken_off(kernel: Kernel, tmp_path: Path) -> None:
    kernel.guards(tmp_path).keep([1, 2], whole)
    following = kernel.guards(tmp_path, generation=1)
    assert following.keep([2], whole) == [
        "took the guards off interface 1",
        *(f"put {guard} at interface 2" for guard in GUARDS),
    ]
    assert {each.program_id for each in kernel.filters.values()} == {11, 12}
    assert following.remove_all() == ["took the guards off interface 2"] and not following.is_anywhere


def test_who_has_no_room_for_one_is_told_once_and_asked_again(kernel: Kernel, tmp_path: Path) -> None:
    made = kernel.guards(tmp_path)
    kernel.closed_to.add(1)
    (said,) = made.keep([1], whole)
    assert "interface 1 has no guard" in said and "ingress" in said
    assert made.keep([1], whole) == []
    kernel.closed_to.clear()
    assert len(made.keep([1], whole)) == len(GUARDS)


def test_any_number_that_can_have_none_take_nobody_elses_turn(kernel: Kernel, tmp_path: Path) -> None:
    made = kernel.guards(tmp_path)
    kernel.closed_to |= set(range(1, AT_ONCE + 1))
    bare, pods = range(AT_ONCE + 1, 2 * AT_ONCE + 1), range(1, 3 * AT_ONCE + 1)
    for _ in range(3):
        made.keep(pods, lambda ifindex: ifindex not in bare)
    assert kernel.at() == [*range(2 * AT_ONCE + 1, 3 * AT_ONCE + 1)]
    # They come round again, and those that have theirs are let be.
    kernel.closed_to.clear()
    said = [line for _ in range(3) for line in made.keep(pods, whole)]
    assert len(said) == 2 * AT_ONCE * len(GUARDS) and kernel.at() == [*pods]


def test_one_whose_program_is_gone_is_taken_off_with_its_pod(kernel: Kernel, tmp_path: Path) -> None:
    made = kernel.guards(tmp_path)
    made.keep([1], whole)
    assert made.keep([1], lambda _: False) == []
    assert made.keep([], whole) == ["took the guards off interface 1"] and kernel.at() == []
