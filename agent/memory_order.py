"""Whom the kernel ends first when memory is used up, of the processes of one agent: workers, and control last.

A worker is replaced within a second, and the others serve meanwhile; without control nobody is replaced, and a
container ends with it. Left alone the kernel takes the largest, which at rest is control. Where this process may
(CAP_SYS_RESOURCE) control moves back, and workers stay where they were put, so that none of a node's other processes
comes after them; where it may not, workers move forward (proc_pid_oom_score_adj(5)).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

BETWEEN = 600
"""Thousandths of the memory that there is, in all or in the control group, by which control may be larger.

With 500 two workers and control, in a group that holds no more than them, came out even.
"""
LEAST, MOST = -1000, 1000


def place_of(pid: int) -> int:
    """What is added to how large a process is. Raises OSError."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


_moved: list[int] = []
"""Where this process was before it moved back."""


def control_last() -> None:
    """Move this process back, if it may."""
    own = place_of(os.getpid())
    # With -1000 it would never be ended, and the machine not saved from it.
    wanted = min(own, max(own - BETWEEN, LEAST + 1))
    try:
        _move(wanted)
        _moved.append(own)
    except OSError as error:
        log.debug("workers move forward instead, control stays at %d: %s", own, error)


def as_before() -> None:
    """Move this process where it was: whoever it becomes moves itself, and what is forked before that does not."""
    while _moved:
        _move(_moved.pop())


def before_control() -> None:
    """Move this process, a worker, in front of control, which is its parent; where it is there already it stays."""
    try:
        wanted = min(MOST, place_of(os.getppid()) + BETWEEN)
        if wanted > place_of(os.getpid()):
            _move(wanted)
    except OSError as error:
        log.warning("where memory is short control may be ended before workers: %s", error)


def _move(place: int) -> None:
    Path("/proc/self/oom_score_adj").write_text(str(place))
