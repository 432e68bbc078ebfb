"""Filters become links a few at a time, and one that cannot is no reason to stop."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest

from redirect.errors import StepFailed
from redirect.observe import Observed
from redirect.settling import Settling

Place = tuple[int, str]
FOUR: list[Place] = [(3, "from_pod"), (3, "to_pod"), (5, "from_pod"), (5, "to_pod")]


@dataclass
class FakeAttachments:
    settled: list[Place] = field(default_factory=list)
    refused: frozenset[Place] = frozenset()

    def settle(self, ifindex: int, program: str) -> None:
        if (ifindex, program) in self.refused:
            raise StepFailed("settle", "no room")
        self.settled.append((ifindex, program))


class FakePins:
    locked = nullcontext


def settling_of(attachments: FakeAttachments, *places: Place, behind: tuple[Place, ...] = ()) -> Settling:
    made = Settling(FakePins(), attachments)  # type: ignore[arg-type]
    made.note(Observed(provisional=frozenset(places), behind=dict.fromkeys(behind, "greedy")))
    return made


def test_a_turn_takes_as_many_as_there_is_time_for_and_one_at_least(caplog: pytest.LogCaptureFixture) -> None:
    attachments = FakeAttachments()
    settling = settling_of(attachments, *FOUR)
    caplog.set_level("INFO", "redirect.settling")
    settling.turn(0)
    assert attachments.settled == FOUR[:1] and settling.left == 3
    settling.turn(60)
    assert attachments.settled == FOUR and settling.left == 0
    assert "links now" in caplog.text
    settling.turn(60)
    assert attachments.settled == FOUR


def test_one_that_is_behind_others_is_not_of_these() -> None:
    attachments = FakeAttachments()
    settling_of(attachments, *FOUR, behind=(FOUR[0],)).turn(60)
    assert attachments.settled == FOUR[1:]


def test_one_that_cannot_be_a_link_is_named_stays_and_is_tried_again_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attachments = FakeAttachments(refused=frozenset(FOUR[1:2]))
    left, now_s = Observed(provisional=frozenset(FOUR[1:2])), 0.0
    settling = Settling(FakePins(), attachments, lambda: now_s)  # type: ignore[arg-type]
    settling.note(Observed(provisional=frozenset(FOUR)))
    tried_s = []
    for now in range(100):
        now_s = float(now)
        before = caplog.text.count("to_pod of interface 3 stays a filter")
        settling.turn(60)
        settling.note(left)
        tried_s += [now] * (caplog.text.count("to_pod of interface 3 stays a filter") - before)
    assert attachments.settled == [FOUR[0], *FOUR[2:]] and tried_s == [0, 11, 32, 73]
    assert "links now" not in caplog.text
    now_s, attachments.refused = 200.0, frozenset()
    settling.note(left)
    settling.turn(60)
    assert attachments.settled[-1] == FOUR[1]
    # Its pod went, and another is captured there in haste.
    settling.note(Observed())
    settling.note(left)
    assert settling.left == 1
