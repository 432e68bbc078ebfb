"""The ways in which `tests.support.failing_child` ends, and what whoever started it learns of each."""

from __future__ import annotations

from redirect import spawn
from redirect.spawn import Cause

FAILING = "tests.support.failing_child"
WAYS = [
    ("refuse", Cause.REFUSED, "the sky is the wrong colour"),
    ("system", Cause.SYSTEM, "[Errno 2] No such file or directory: '/run/netns/nobody'"),
    ("defect", Cause.DEFECT, r"KeyError: 'lost' (failing_child.py:"),
    ("exit", Cause.DIED, "exit status 7"),
    ("kill", Cause.DIED, "ended by SIGKILL"),
    ("end", Cause.ENDED, "it was finished"),
]
"""How it is told to end, the cause that is told, and how its text begins."""


def ended(child: spawn.Child) -> spawn.Failure:
    try:
        return child.failure()
    finally:
        child.close()
