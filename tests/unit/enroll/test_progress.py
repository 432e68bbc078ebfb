"""How far each wished pod is, put together of what captures know."""

from __future__ import annotations

from collections.abc import Mapping

from agent.enroll.progress import Progress, ProgressOfAll, progress
from agent.enroll.trouble import Missing, Trouble
from agent.enroll.wish import PodKey, Where, Wish


def test_progress_is_of_everybody_who_is_wished_for() -> None:
    one, two, away = (PodKey("demo", name) for name in ("one", "two", "away"))

    class Captured:
        wishes: Mapping[PodKey, Wish] = {
            key: Wish(key, Where(pid=1), uid=key.name) for key in (one, two, away)
        }
        pods: Mapping[PodKey, object] = {one: object()}
        owners: Mapping[int, PodKey] = {1: one, 2: two}
        troubles = (Trouble(Missing.CERTIFICATE, "no certificate", two, remedy="wait"),)

    assert progress(Captured()) == {
        one: Progress("one", True, True),
        two: Progress("two", True, False, "no certificate; wait"),
        away: Progress("away"),
    }


def test_how_far_all_are_is_made_anew_only_when_something_of_it_changed() -> None:
    one, two = PodKey("demo", "one"), PodKey("demo", "two")

    class Captured:
        wishes: Mapping[PodKey, Wish] = {one: Wish(one, Where(pid=1), uid="one")}
        pods: Mapping[PodKey, object] = {}
        troubles: tuple[Trouble, ...] = ()
        held: Mapping[int, PodKey] = {}

        @property
        def owners(self) -> Mapping[int, PodKey]:
            return dict(self.held)

    captures = Captured()
    of_all = ProgressOfAll(captures)
    assert of_all() == {one: Progress("one")} and of_all() is of_all()
    for name, value in (
        ("held", {1: one}),
        ("pods", {one: object()}),
        ("troubles", (Trouble(Missing.CERTIFICATE, "no certificate", one, remedy="wait"),)),
        ("wishes", {key: Wish(key, Where(pid=1), uid=key.name) for key in (one, two)}),
    ):
        before = of_all()
        setattr(captures, name, value)
        assert of_all() == progress(captures) != before
        assert of_all() is of_all()
