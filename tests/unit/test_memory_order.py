"""Whom of an agent's processes the kernel ends first, as the places of control and of a worker say it."""

from __future__ import annotations

import os

import pytest

from agent import memory_order


class Kernel:
    """The places of this process and of its parent. Who `may_go_back` has CAP_SYS_RESOURCE."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own: int, parent: int, *, may_go_back: bool) -> None:
        self.own, self._parent, self._may_go_back = own, parent, may_go_back
        monkeypatch.setattr(memory_order, "place_of", self._place_of)
        monkeypatch.setattr(memory_order, "_move", self._move)

    def _place_of(self, pid: int) -> int:
        return self.own if pid == os.getpid() else self._parent

    def _move(self, place: int) -> None:
        if place < self.own and not self._may_go_back:
            raise PermissionError(13, "Permission denied")
        self.own = place


@pytest.mark.parametrize(("given", "last"), [(0, -600), (980, 380), (-997, -999), (-1000, -1000)])
def test_control_moves_back_where_it_may_and_where_it_was_before_it_becomes_another(
    monkeypatch: pytest.MonkeyPatch, given: int, last: int
) -> None:
    kernel = Kernel(monkeypatch, given, 0, may_go_back=True)
    memory_order.control_last()
    assert kernel.own == last
    memory_order.as_before()
    assert kernel.own == given


@pytest.mark.parametrize(
    ("control", "given", "place"),
    [(-600, 0, 0), (-600, -600, 0), (0, 0, 600), (980, 980, 1000), (0, 700, 700)],
    ids=["forked before", "of a nursery made again", "without the right", "of a container", "there already"],
)
def test_a_worker_is_in_front_of_control(
    monkeypatch: pytest.MonkeyPatch, control: int, given: int, place: int
) -> None:
    kernel = Kernel(monkeypatch, given, control, may_go_back=False)
    memory_order.control_last()
    assert kernel.own == given, "without the right it stays"
    memory_order.before_control()
    assert kernel.own == place
