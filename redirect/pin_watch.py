"""News that pins were removed, by inotify: a link without its pin ends with the process that holds it.

For an event loop: read it when `fileno()` is readable. Layout and flags: inotify(7), include/uapi/linux/inotify.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

IN_MOVED_FROM, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x40, 0x200, 0x400, 0x800
GONE = IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
_READ_BYTES = 1 << 14

_libc = ctypes.CDLL(None, use_errno=True)


class PinWatch:
    """Watches directories; close it. Raises OSError where the kernel gives no inotify."""

    def __init__(self) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._fd

    def watch(self, directories: Iterable[Path]) -> None:
        """Those that are there, besides those that were; one that was made anew is another."""
        for path in directories:
            try:
                _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), GONE))
            except FileNotFoundError:
                continue

    def read(self) -> None:
        """Takes what was told; what it was is looked up. Never blocks."""
        try:
            while os.read(self._fd, _READ_BYTES):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._fd)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
