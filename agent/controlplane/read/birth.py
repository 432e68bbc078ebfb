"""When a file came into being: it tells a new one from one written in its place where both have one inode number."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

AT_FDCWD = -100
STATX_BTIME = 0x800
MASK = struct.Struct("=I")
BTIME, BTIME_AT = struct.Struct("=qI"), 80
STATX_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)


def born_ns(path: Path) -> int | None:
    """Nanoseconds since the epoch; None where the file system does not say, or nothing is there (statx(2))."""
    answer = ctypes.create_string_buffer(STATX_BYTES)
    if _libc.statx(AT_FDCWD, os.fsencode(path), 0, STATX_BTIME, answer):
        return None
    if not MASK.unpack_from(answer)[0] & STATX_BTIME:
        return None
    seconds, nanoseconds = BTIME.unpack_from(answer, BTIME_AT)
    return int(seconds) * 10**9 + int(nanoseconds)
