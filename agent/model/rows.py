"""Many small byte strings in a few large ones: each costs its own length, not that of an object.

Rows are only ever added, so everybody who knows a number may keep it, however much is added later: snapshots of
different moments share one of these. What nobody needs any more goes with the whole.
"""

from __future__ import annotations

CHUNK_BITS = 18
CHUNK_BYTES = 1 << CHUNK_BITS


class Rows:
    """A number says where a row begins: the chunk, and the place in it. The first is 1. Rows say how long they are."""

    __slots__ = ("_chunks", "total_bytes")

    def __init__(self) -> None:
        self._chunks = [bytearray(1)]
        self.total_bytes = 0

    def add(self, row: bytes) -> int:
        """The number of a new row. It lies in one chunk, which it may make longer than others."""
        chunk = self._chunks[-1]
        if len(chunk) >= CHUNK_BYTES:
            chunk = bytearray()
            self._chunks.append(chunk)
        number = (len(self._chunks) - 1) << CHUNK_BITS | len(chunk)
        chunk += row
        self.total_bytes += len(row)
        return number

    def at(self, number: int) -> tuple[bytearray, int]:
        """The chunk of a row, and where in it the row begins. To read; it may be moved by the next `add`."""
        return self._chunks[number >> CHUNK_BITS], number & (CHUNK_BYTES - 1)

    def lengths(self) -> list[int]:
        """Of the chunks, in bytes."""
        return [len(chunk) for chunk in self._chunks]
