"""Notes from where somebody has proven who it is, in the memory of the map `members`, which programs read.

A worker has no right to ask for a change of a map, but may write into one whose memory it was given. An address has two
neighbouring places, by a hash that the programs compute too (bpf/include/ztun_strangers.h): the one that counts for
longer stays when a third comes. Workers write it at the same time; what they spoil for each other is one entry, whose
address is limited like anybody's until it proves itself again.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

from agent.model.address import IP

PLACES = 16384
MEMBER = struct.Struct("=16sQ")
"""Address, and until when it counts (ns of the monotonic clock)."""
_WORDS = struct.Struct("=4I")
_UNTIL = struct.Struct("=16xQ")
_V4_PREFIX = bytes(10) + b"\xff\xff"
_U32 = 0xFFFFFFFF


class MemberTable:
    """The map that `fd` is a descriptor of, which is this object's."""

    def __init__(self, fd: int) -> None:
        """Raises OSError for anything that is no such map."""
        try:
            self._memory = mmap.mmap(
                fd, PLACES * MEMBER.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
            )
        finally:
            os.close(fd)

    def note(self, ip: IP, for_s: float) -> None:
        """Somebody at this address has proven who it is, which counts for so long."""
        address = ip.packed if ip.version == 6 else _V4_PREFIX + ip.packed
        first = place_of(address) * MEMBER.size
        second = first + MEMBER.size
        at = first
        if self._memory[first : first + 16] != address and (
            self._memory[second : second + 16] == address or self._until(second) < self._until(first)
        ):
            at = second
        MEMBER.pack_into(self._memory, at, address, time.monotonic_ns() + int(for_s * 1e9))

    def knows(self, ip: IP) -> bool:
        """Whether that was so and counts still."""
        address = ip.packed if ip.version == 6 else _V4_PREFIX + ip.packed
        first, now_ns = place_of(address) * MEMBER.size, time.monotonic_ns()
        return any(
            self._memory[at : at + 16] == address and self._until(at) > now_ns
            for at in (first, first + MEMBER.size)
        )

    def _until(self, at: int) -> int:
        (until_ns,) = _UNTIL.unpack_from(self._memory, at)
        return int(until_ns)

    def close(self) -> None:
        self._memory.close()


def place_of(address: bytes) -> int:
    """The first of an address's two places; IPv4 as ::ffff:a.b.c.d."""
    mixed = 0
    for word in _WORDS.unpack(address):
        mixed = (mixed ^ word) * 0x9E3779B1 & _U32
        mixed ^= mixed >> 15
    return mixed % PLACES & ~1
