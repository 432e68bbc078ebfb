"""Locks between processes that share a file: each of its bytes is one.

A lock is the open file's (F_OFD_SETLK), so that it ends with whoever has it, however that ends. Nobody waits for one
that stands still with a lock: all that a worker carries waits meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of x86_64 and arm64: kind, whence, start, length, pid (fcntl(2))."""
_TRIES, _YIELD_EVERY = 512, 128
"""Less than a millisecond, which is more than it takes to count."""
_PAUSES, _PAUSE_S = 10, 0.001
"""And then, for one who has a lock while others have its core. Who keeps it for longer stands still."""


class FileLocks:
    """Those of one open file, which stays its owner's to close; that lets go of all of them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_stuck = False
        """Whether another process stood still with the lock that was last wanted soon."""

    def take(self, byte: int) -> bool:
        """Whether it is ours now. Raises OSError."""
        return self._set(fcntl.F_WRLCK, byte)

    def take_soon(self, byte: int) -> bool:
        """The same, waiting for some milliseconds at most, and not at all where that was of no use just before."""
        is_ours = self.take(byte) or (not self.is_stuck and self._waited(byte))
        self.is_stuck = not is_ours
        return is_ours

    def let_go(self, byte: int) -> None:
        self._set(fcntl.F_UNLCK, byte)

    def is_held(self, byte: int) -> bool:
        """Whether another process has it."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        said = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        return int(_FLOCK.unpack(said)[0]) != fcntl.F_UNLCK

    def _waited(self, byte: int) -> bool:
        """Whether it came free."""
        for turn in range(1, _TRIES + 1):
            if self.take(byte):
                return True
            if not turn % _YIELD_EVERY:
                os.sched_yield()
        for _ in range(_PAUSES):
            time.sleep(_PAUSE_S)
            if self.take(byte):
                return True
        return False

    def _set(self, kind: int, byte: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
        except BlockingIOError:
            return False
        return True
