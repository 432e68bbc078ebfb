"""The clock of one node is wrong by an hour, or those of both: then the control plane's is wrong, for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.fault import Apply, Fault
from tests.chaos.losses import RESETS, Allowed, Reach
from tests.chaos.schedule import Span
from tests.chaos.stage import Stage

HOUR_S = 3600
HEALS_S = 90.0
"""What is not valid by the new time is renewed within a minute."""


def an_hour_off(*, are_all: bool) -> Apply:
    @contextmanager
    def moved(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
        ahead_s = chances.choice((HOUR_S, -HOUR_S))
        clocks = stage.clocks.values() if are_all else [stage.clocks[node]]
        try:
            for clock in clocks:
                clock.set_ahead(ahead_s)
            yield
        finally:
            for clock in clocks:
                clock.set_ahead(0)

    return moved


FAULTS = {
    "clock": Fault(
        "the clock of a node is an hour ahead, or back",
        Span(1, 20),
        Allowed(HEALS_S, new=RESETS, reach=Reach.NODE),
        an_hour_off(are_all=False),
    ),
    "clocks": Fault(
        "the clocks of both nodes are: for them, the control plane's is",
        Span(1, 20),
        Allowed(HEALS_S, new=RESETS, reach=Reach.ALL),
        an_hour_off(are_all=True),
    ),
}
