"""How the window of a stream follows its reader. Pure.

A window is memory that a reader who stops may leave filled, so a stream begins with little, and gets more only for
reading fast: twice as much each time a quarter of it was read within one round trip of the path. So a window holds
about four times what is on its way. What is beyond that is a queue, in which the bytes of the other streams wait too:
where these receive little, a stream gives it back. So does, alone or not, one whose reader has become slow.
"""

from __future__ import annotations

FAST_S = 0.1
"""A quarter of the window was read within this, on however long a path: the reader could use more of it."""
LEAST_ALONE_S, LEAST_SHARED_S = 0.0005, 0.0001
"""Nor is it less on a shorter path. Alone it may have a queue, as long as somebody who is woken up takes to run."""
SLOW_S = 1.0
"""A quarter of the window took longer than this: the reader could do with less."""
SHARED_S = 1.0
"""So long a connection is shared after some streams got much of it and another one little."""
WEIGH_S = 0.05
"""How often streams are weighed against each other."""
STALE_S = 4 * WEIGH_S
"""What was received in longer than this says nothing of now: it may have been before one of them began."""


def paces(round_trip_s: float, *, is_shared: bool) -> tuple[float, float]:
    """Within what time a quarter of a window has to be read for it to grow, and after what time it shrinks."""
    fast_s = min(FAST_S, max(LEAST_SHARED_S if is_shared else LEAST_ALONE_S, round_trip_s))
    # More than twice: what has shrunk is read in half the time, and must not grow for that.
    return fast_s, min(SLOW_S, 2.5 * fast_s) if is_shared else SLOW_S


def window_change(
    window: int,
    elapsed_s: float,
    *,
    first: int,
    most: int,
    room: int,
    pace: tuple[float, float] = (FAST_S, SLOW_S),
) -> int:
    """By how much a stream's window changes, a quarter of it having been read within `elapsed_s`.

    It stays between `first` and `most`. `room` is by how much windows of the connection may still grow: no stream
    gets a larger one than what it leaves of that to the others, so that many share it alike.
    """
    fast_s, slow_s = pace
    if elapsed_s <= fast_s:
        growth = min(window, most - window)
        return growth if window + growth <= room - growth else 0
    if elapsed_s >= slow_s:
        return -min(window // 2, window - first)
    return 0
