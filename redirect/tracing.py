"""Has the programs tell of packets, live, with nothing but the pinned maps. Needs no agent, and changes no verdict.

What is asked for is the one entry of `tracing`; events come into a ring that is made here and put into `trace_ring`.
The entry is over LAST_NS after it was last put off, which the programs check with every packet: whoever asked and was
killed or stopped is told nothing any more, and nobody pays for it. One process at a time: a lock on the directory of
the pins, which ends with it as well.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from redirect import sys_bpf
from redirect.errors import InstanceInUse, NoPins
from redirect.maps import Maps
from redirect.opening import now_ns
from redirect.trace_entries import TraceFilter

RING_BYTES = 1 << 20
"""14,563 events. A power of two and a multiple of the page size, as the kernel wants it."""
LAST_NS = 2_000_000_000
_ONLY = struct.pack("=I", 0)


class Tracer:
    """Programs tell of what `wanted` says until it is closed, as long as `keep` is called in time."""

    def __init__(self, maps: Maps, directory: Path, wanted: TraceFilter) -> None:
        """`directory`: where the maps are pinned. Raises InstanceInUse while somebody else traces, NoPins, OSError."""
        self._maps = maps
        self._place = directory / "map_tracing"
        self._number = sys_bpf.map_info(maps.fds["tracing"]).id
        with ExitStack() as closing:
            closing.callback(os.close, _locked(directory))
            self._memory = mmap.mmap(maps.fds["tracing"], mmap.PAGESIZE)
            closing.callback(self._memory.close)
            fd = sys_bpf.map_create(sys_bpf.MAP_TYPE_RINGBUF, "ztun_trace", max_entries=RING_BYTES)
            closing.callback(os.close, fd)
            self.ring_fd = fd
            # Words of eight bytes each, at once: nobody may see half of one.
            self._words = memoryview(self._memory).cast("Q")
            closing.callback(self._words.release)
            # One that was killed may have left its own: over, but the ring is still there.
            maps.put_trace_ring(fd)
            closing.callback(self._end)
            self._until_ns = now_ns() + LAST_NS
            maps.put_trace_filter(replace(wanted, until_ns=self._until_ns, due_ns=0, lost=0))
            self._closing = closing.pop_all()

    @property
    def lost(self) -> int:
        """Events that were not told of so far: they came faster than 10,000 a second, or were not taken in time."""
        return self._words[TraceFilter.LOST_AT // 8]

    def keep(self) -> float:
        """Puts the end off; for how many seconds it had been over by then: what came meanwhile was not told.

        Raises NoPins when the programs that are pinned are others by now, or none.
        """
        if _number(self._place) != self._number:
            raise NoPins(
                "the programs that told of packets are gone: an agent of another version, or `ztun uninstall`, took "
                "them away; trace again with the `ztun` that runs now"
            )
        at_ns = now_ns()
        missed_ns = max(0, at_ns - self._until_ns)
        self._until_ns = at_ns + LAST_NS
        self._words[TraceFilter.UNTIL_AT // 8] = self._until_ns
        return missed_ns / 1e9

    def stop(self) -> None:
        """Nothing more is told from now on; what is in the ring stays there."""
        self._words[TraceFilter.UNTIL_AT // 8] = 0

    def close(self) -> None:
        self._closing.close()

    def _end(self) -> None:
        self.stop()
        self._maps.delete_trace_ring()


def _locked(directory: Path) -> int:
    """The directory, for nobody else to lock until this is closed, or its holder ends."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = _holder(fd)
        os.close(fd)
        raise InstanceInUse(
            f"{who} traces here already, and the programs tell one process at a time: end that one"
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _holder(fd: int) -> str:
    """Who has locked it, as far as /proc/locks tells."""
    inode = str(os.fstat(fd).st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1:2] == ["FLOCK"] and words[5].rpartition(":")[2] == inode:
            return f"process {words[4]}"
    return "another process"


def _number(path: Path) -> int:
    """The kernel's id of a pinned map; 0: there is none."""
    try:
        fd = sys_bpf.obj_get(path)
    except FileNotFoundError:
        return 0
    try:
        return sys_bpf.map_info(fd).id
    finally:
        os.close(fd)
