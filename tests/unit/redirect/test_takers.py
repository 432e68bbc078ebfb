"""The listeners of each owner in the kernel's table, put there by an agent while workers of the one before go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redirect.conf import Conf
from redirect.layout import NO_MAC, SLOTS
from redirect.reconcile import Redirection


class Table:
    """Maps of programs that may look at any moment: what the choice between owners was meanwhile."""

    def __init__(self) -> None:
        self.there: dict[tuple[int, int], int] = {}
        self.chosen_of: list[tuple[int, int]] = []
        self._conf = Conf(0, 0, 0, 0, NO_MAC)

    @property
    def settings(self) -> Conf:
        return self._conf

    def put_conf(self, conf: Conf) -> None:
        self._conf = conf
        self.chosen_of.append((conf.takers, conf.owners))

    def takers(self) -> list[tuple[int, int]]:
        return list(self.there)

    def put_taker(self, slot: int, owner: int, fd: int) -> None:
        self.there[slot, owner] = fd

    def delete_taker(self, slot: int, owner: int) -> None:
        del self.there[slot, owner]

    def set(self, count: int, *, have_rings: bool = False, first_fd: int = 100) -> list[tuple[int, int]]:
        """How many takers, and owners of rings, there were to choose from, step by step."""
        self.chosen_of = []
        fds = [dict.fromkeys(SLOTS, first_fd + owner) for owner in range(count)]
        redirection: Any = SimpleNamespace(_maps=self)
        Redirection.set_takers(redirection, fds, have_rings=have_rings)
        assert self.there == {
            (slot, owner): first_fd + owner for slot in SLOTS.values() for owner in range(count)
        }
        return self.chosen_of


@pytest.mark.parametrize("have_rings", [False, True])
def test_where_all_are_there_the_choice_stands_while_they_are_put_again(have_rings: bool) -> None:
    """What a worker dials to itself would go astray, and what it let in."""
    table, owners = Table(), 2 * have_rings
    assert table.set(2, have_rings=have_rings) == [(0, 0), (2, owners)]
    assert table.set(2, have_rings=have_rings, first_fd=200) == [(2, owners)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nobody_is_chosen_who_is_not_there(count: int) -> None:
    table = Table()
    table.set(2)
    assert table.set(count)[0] == (0, 0)


def test_one_that_is_missing_is_not_chosen_either() -> None:
    table = Table()
    table.set(2)
    table.delete_taker(0, 1)
    assert table.set(2)[0] == (0, 0)
