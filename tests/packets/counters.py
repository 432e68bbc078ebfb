"""The counters of the programs, read often: twice for each packet that is played.

A call for each counter and nothing else, with memory that is laid out once: on an emulated machine that is most of what
a test costs. (One call for all of them, BPF_MAP_LOOKUP_BATCH, is for arrays of this kind since Linux 5.13.)
"""

from __future__ import annotations

import ctypes
import struct

from redirect import sys_bpf

_libc = ctypes.CDLL(None, use_errno=True)


class Counters:
    """Those of a per-CPU array of 64 bits each, summed over all CPUs."""

    def __init__(self, fd: int, count: int) -> None:
        self._cpus = sys_bpf.possible_cpus()
        self._keys = (ctypes.c_uint32 * count)(*range(count))
        self._values = (ctypes.c_uint64 * (count * self._cpus))()
        keys, values = ctypes.addressof(self._keys), ctypes.addressof(self._values)
        self._calls = [
            ctypes.create_string_buffer(
                struct.pack("=IxxxxQQQ", fd, keys + 4 * index, values + 8 * self._cpus * index, 0), 128
            )
            for index in range(count)
        ]

    def read(self) -> list[int]:
        """All of them, in their order. Raises OSError."""
        call, number, command = _libc.syscall, sys_bpf.SYSCALL, sys_bpf.MAP_LOOKUP
        for attributes in self._calls:
            if call(number, command, attributes, 128):
                raise OSError(ctypes.get_errno(), "a counter cannot be read")
        values, cpus = self._values, self._cpus
        return [sum(values[at : at + cpus]) for at in range(0, len(values), cpus)]
