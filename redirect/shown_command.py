"""What /proc/PID/cmdline, and with it ps, shows of a process: one that was forked still has its parent's.

Who looks for processes of ours goes by it (`ztun uninstall`, an agent that looks for workers without a socket), and so
does whoever reads ps.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

PR_SET_MM = 35
PR_SET_MM_MAP = 14
# struct prctl_mm_map: eleven addresses, the auxiliary vector (left alone: length 0), exe_fd (left alone: -1)
_MAP = struct.Struct("=11QQIi")
STARTCODE, START_DATA = 25, 44
"""In /proc/PID/stat, counted from 0: startcode, endcode, startstack; start_data to env_end (proc(5))."""

_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[object] = []
"""What the kernel reads from as long as this process lives."""


def show_as(command: Sequence[str]) -> None:
    """Have this process shown as this command. Where the kernel allows no other place, as far as there is room.

    Linux reads another place by PR_SET_MM_MAP, which wants CONFIG_CHECKPOINT_RESTORE. Raises OSError.
    """
    text = b"".join(part.encode(errors="surrogateescape") + b"\0" for part in command)
    fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()
    # Behind the name in brackets: the first field there is the third.
    startcode, endcode, startstack = map(int, fields[STARTCODE - 2 : STARTCODE + 1])
    start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end = map(
        int, fields[START_DATA - 2 : START_DATA + 5]
    )
    place = mmap.mmap(-1, len(text), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place[:] = text
    view = ctypes.c_char.from_buffer(place)
    start = ctypes.addressof(view)
    _libc.sbrk.restype = ctypes.c_void_p
    brk = _libc.sbrk(ctypes.c_ssize_t(0)) or 0
    packed = _MAP.pack(
        startcode,
        endcode,
        start_data,
        end_data,
        start_brk,
        brk,
        startstack,
        start,
        start + len(text),
        env_start,
        env_end,
        0,
        0,
        -1,
    )
    if _libc.prctl(
        PR_SET_MM, PR_SET_MM_MAP, ctypes.create_string_buffer(packed, len(packed)), len(packed), 0
    ):
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.EPERM):
            raise OSError(code, f"cannot change the shown command: {os.strerror(code)}")
        room = arg_end - arg_start
        ctypes.memmove(arg_start, text[: room - 1].ljust(room, b"\0"), room)
        return
    _kept.extend((place, view))
