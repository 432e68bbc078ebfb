"""Reads a BPF ring buffer: the records in the order in which programs submitted them, each once.

Layout (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the producer's, then the data, mapped
twice in a row so that no record is cut. A record begins with a u32 length whose two highest bits say that it is still
being written, or was discarded; another u32, its content, and room up to a multiple of eight. One process reads a
ring at a time. Watch it level-triggered: the kernel reports an edge only when it sees that the reader had caught up.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

MAP_TYPE_RINGBUF = 27
BUSY, DISCARDED = 1 << 31, 1 << 30
HEADER_BYTES = 8
_LENGTH = struct.Struct("=I")


class SynRing:
    """One ring. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        """Raises OSError, or ValueError for a descriptor of something else; it is closed then."""
        page = mmap.PAGESIZE
        try:
            size_bytes = _size_bytes(fd)
            writable = mmap.PROT_READ | mmap.PROT_WRITE
            self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, writable)
            self._producer = mmap.mmap(
                fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
            )
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._size_bytes = size_bytes
        # Positions only grow. Eight bytes at once: nobody may see half of one.
        self._consumed = memoryview(self._consumer)[:8].cast("Q")
        self._produced = memoryview(self._producer)[:8].cast("Q")

    def fileno(self) -> int:
        return self._fd

    def take(self, limit: int) -> list[bytes]:
        """Up to `limit` records; fewer when one is still being written: the ring stays readable."""
        at, end = self._consumed[0], self._produced[0]
        records: list[bytes] = []
        while at < end and len(records) < limit:
            start = mmap.PAGESIZE + at % self._size_bytes
            (length,) = _LENGTH.unpack_from(self._producer, start)
            if length & BUSY:
                break
            size = length & ~DISCARDED
            start += HEADER_BYTES
            if not length & DISCARDED:
                records.append(self._producer[start : start + size])
            at += (HEADER_BYTES + size + 7) & ~7
        self._consumed[0] = at
        return records

    def close(self) -> None:
        self._consumed.release()
        self._produced.release()
        self._consumer.close()
        self._producer.close()
        os.close(self._fd)


def _size_bytes(fd: int) -> int:
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if int(found.get("map_type", -1)) != MAP_TYPE_RINGBUF:
        raise ValueError("the descriptor is not that of a ring buffer")
    return int(found["max_entries"])
