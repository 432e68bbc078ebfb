"""The rings in which held SYNs wait for the worker that serves them: one ring for each owner of listeners.

A ring lives in the pinned map `rings`, so it outlives the processes that write and
read it. It is read by one process at a time; whoever may have two of them makes a new one first (`renew`), and what
is left in the old one is its reader's alone.
"""

from __future__ import annotations

import mmap
import os
import struct

from redirect import sys_bpf
from redirect.layout import OWNERS_MAX

RING_BYTES = 1 << 18
"""1489 SYNs. A power of two and a multiple of the page size, as the kernel wants it."""
_U32 = struct.Struct("=I")


class Ring:
    """A ring as its maker sees it. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ)
        self._producer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    @classmethod
    def made(cls) -> Ring:
        """Raises OSError."""
        return cls(sys_bpf.map_create(sys_bpf.MAP_TYPE_RINGBUF, "ztun_syns", max_entries=RING_BYTES))

    @property
    def is_empty(self) -> bool:
        """Whether its reader has taken everything."""
        return self._consumer[:8] == self._producer[:8]

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
        os.close(self.fd)


class Rings:
    """The rings of `count` owners, in the map that `fd` is a descriptor of (this object's from now on).

    Those that are there already stay, and with them what waits in them.
    """

    def __init__(self, fd: int, count: int) -> None:
        """Raises OSError."""
        self._fd = fd
        self._rings: dict[int, Ring] = {}
        try:
            for owner in range(OWNERS_MAX):
                raw = sys_bpf.map_lookup(fd, _U32.pack(owner), _U32.size)
                if owner >= count and raw is not None:
                    sys_bpf.map_delete(fd, _U32.pack(owner))
                elif owner < count and raw is not None:
                    self._rings[owner] = Ring(sys_bpf.map_by_id(_U32.unpack(raw)[0]))
                elif owner < count:
                    self.renew(owner)
        except BaseException:
            self.close()
            raise

    def fd(self, owner: int) -> int:
        """The descriptor to hand to the worker that serves this owner; it stays this object's."""
        return self._rings[owner].fd

    def is_empty(self, owner: int) -> bool:
        """Whether everything that came was taken."""
        return self._rings[owner].is_empty

    def renew(self, owner: int) -> None:
        """From now on SYNs of this owner come to an empty ring. Takes some milliseconds. Raises OSError."""
        ring = Ring.made()
        try:
            # Kernel quirk: returns when no program uses the one before any more (synchronize_rcu).
            sys_bpf.map_update(self._fd, _U32.pack(owner), _U32.pack(ring.fd))
        except BaseException:
            ring.close()
            raise
        before = self._rings.pop(owner, None)
        self._rings[owner] = ring
        if before is not None:
            before.close()

    def close(self) -> None:
        """Let go of them; those in the map live on."""
        while self._rings:
            self._rings.popitem()[1].close()
        os.close(self._fd)
