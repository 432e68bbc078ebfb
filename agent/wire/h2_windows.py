"""How the window of a stream follows its reader. Pure.

A window is memory that a reader who stops may leave filled, so a stream begins with little, and gets more only for
reading fast: twice as much each time a quarter of it was read within one round trip of the path. So a window holds
about four times what is on its way, and no queue beyond that, in which the bytes of others would wait too. A reader
that has become slow gives it back.
"""

from __future__ import annotations

FAST_S = 0.1
"""A quarter of the window was read within this, on however long a path: the reader could use more of it."""
LEAST_FAST_S = 0.0005
"""Nor is it less on a shorter path: so long it takes until somebody runs who has been woken up."""
SLOW_S = 1.0
"""A quarter of the window took longer than this: the reader could do with less."""


def fast_s(round_trip_s: float) -> float:
    """Within what time a quarter of the window has to be read for it to grow, on a path of this length."""
    return min(FAST_S, max(LEAST_FAST_S, round_trip_s))


def window_change(
    window: int, elapsed_s: float, *, first: int, most: int, room: int, fast: float = FAST_S
) -> int:
    """By how much a stream's window changes, a quarter of it having been read within `elapsed_s`.

    It stays between `first` and `most`. `room` is by how much windows of the connection may still grow: no stream
    gets a larger one than what it leaves of that to the others, so that many share it alike.
    """
    if elapsed_s <= fast:
        growth = min(window, most - window)
        return growth if window + growth <= room - growth else 0
    if elapsed_s >= SLOW_S:
        return -min(window // 2, window - first)
    return 0
