"""How the window of a stream follows its reader. Pure.

A window is memory that a reader who stops may leave filled, so a stream begins with little, and gets more only for
reading fast: twice as much each time a quarter of it was read within FAST_S. So a window holds what its reader takes
in about half a second, or what is on its way on a path that long. A reader that has become slow gives it back.
"""

from __future__ import annotations

FAST_S = 0.1
"""A quarter of the window was read within this: the reader could use more of it."""
SLOW_S = 1.0
"""A quarter of the window took longer than this: the reader could do with less."""


def window_change(window: int, elapsed_s: float, *, first: int, most: int, room: int) -> int:
    """By how much a stream's window changes, a quarter of it having been read within `elapsed_s`.

    It stays between `first` and `most`. `room` is by how much windows of the connection may still grow: no stream
    gets a larger one than what it leaves of that to the others, so that many share it alike.
    """
    if elapsed_s <= FAST_S:
        growth = min(window, most - window)
        return growth if window + growth <= room - growth else 0
    if elapsed_s >= SLOW_S:
        return -min(window // 2, window - first)
    return 0
