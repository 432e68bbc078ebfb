"""The kernel's notices of changes in a directory of manifests."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from watchfiles import awatch

DEBOUNCE_MS = 50
RESCAN_MS = 2000
"""Everything is looked at also without a notice: those of network file systems and of swapped links get lost."""


class Deaf(Exception):
    """The kernel's notices of changes cannot be had; the message says why."""


async def watch(directory: Path) -> AsyncGenerator[frozenset[str] | None, None]:
    """The names that may have changed, whenever some may have; None: any. Runs until it is cancelled.

    Raises Deaf where no notices can be had: of a name that is no UTF-8, of a directory that is away, beyond the
    kernel's number of watches.
    """
    looked_s = time.monotonic()
    try:
        async for notices in awatch(
            directory, debounce=DEBOUNCE_MS, step=10, rust_timeout=RESCAN_MS, yield_on_timeout=True
        ):
            names = frozenset(os.path.relpath(path, directory) for _, path in notices)
            is_due = time.monotonic() - looked_s >= RESCAN_MS / 1000
            if is_due or not names:
                looked_s = time.monotonic()
            yield names if names and not is_due else None
    except (OSError, RuntimeError, ExceptionGroup) as error:
        reason = _innermost(error)
        if not isinstance(reason, OSError | RuntimeError):
            raise
        raise Deaf(str(reason)) from error


def _innermost(error: BaseException) -> BaseException:
    """What a task group's error is about, if it is about one thing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
