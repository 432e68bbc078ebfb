"""Numbers by the hash of a key, eight bytes a cell: an index of 100,000 rows in one megabyte.

Open addressing over two columns. A table knows hashes and rows, never keys: whoever asks compares what the rows say
with the key, as two keys may have one hash. Rows of one hash come in the order in which they were added. A copy is two
copies of memory, and growing is done in steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from agent.model.steps import Steps

HASH_BITS = 0xFFFFFFFF
DEAD = 0xFFFFFFFF
"""In the place of a row that was taken out: what lies behind it is still found."""
SMALLEST = 8
CELLS_A_STEP = 512


class Table:
    """Rows are positive and less than DEAD."""

    __slots__ = ("_hashes", "_mask", "_rows", "_several", "_taken", "count")

    def __init__(self) -> None:
        self._hashes = zeros(SMALLEST)
        self._rows = zeros(SMALLEST)
        self._mask = SMALLEST - 1
        self._taken = 0
        """Cells that are not empty."""
        self._several: dict[int, tuple[int, ...]] = {}
        """Hashes that more than one row has; their cell holds the last."""
        self.count = 0
        """Rows."""

    def copy(self) -> Table:
        other = Table()
        other._hashes, other._rows, other._mask = self._hashes[:], self._rows[:], self._mask
        other._several = dict(self._several)
        other._taken, other.count = self._taken, self.count
        return other

    def rows(self, key_hash: int) -> tuple[int, ...]:
        """Every row that was added with this hash, the oldest first."""
        wanted = key_hash & HASH_BITS
        at = self._find(wanted)
        row: int = self._rows[at]
        if not row:
            return ()
        return self._several.get(wanted, (row,))

    def add(self, key_hash: int, row: int) -> None:
        """One more row; there must be room (`is_full`). What was added last may be added again: it is there once."""
        wanted = key_hash & HASH_BITS
        at = self._find(wanted)
        there: int = self._rows[at]
        if there == row:
            return
        if there:
            self._several[wanted] = (*self._several.get(wanted, (there,)), row)
        else:
            self._hashes[at] = wanted
            self._taken += 1
        self._rows[at] = row
        self.count += 1

    def discard(self, key_hash: int, row: int) -> None:
        """Take out a row that was added with this hash; nothing happens when it was not."""
        wanted = key_hash & HASH_BITS
        at = self._find(wanted)
        there: int = self._rows[at]
        if not there:
            return
        before = self._several.get(wanted, (there,))
        left = tuple(each for each in before if each != row)
        self.count -= len(before) - len(left)
        if len(left) > 1:
            self._several[wanted] = left
        else:
            self._several.pop(wanted, None)
        self._rows[at] = left[-1] if left else DEAD

    def is_full(self, more: int) -> bool:
        """Whether so many more rows make it necessary to grow."""
        return (self._taken + more) * 4 > (self._mask + 1) * 3

    def growing(self, more: int) -> Steps[None]:
        """Room for so many more rows, in steps; the table may be used only when it is done."""
        size = self._mask + 1
        while (self.count + more) * 2 > size:
            size *= 2
        hashes, rows, several = self._hashes, self._rows, self._several
        self._hashes, self._rows, self._mask = zeros(size), zeros(size), size - 1
        self._taken = 0
        for at in range(len(rows)):
            row: int = rows[at]
            if row and row != DEAD:
                wanted: int = hashes[at]
                place = self._find(wanted)
                self._hashes[place], self._rows[place] = wanted, row
                self._taken += 1
            if not at % CELLS_A_STEP:
                yield
        self._several = several

    def __iter__(self) -> Iterator[int]:
        """Every row that was added and is there, in no order."""
        for row in self._rows:
            if row and row != DEAD:
                yield row
        for rows in self._several.values():
            yield from rows[:-1]

    def __len__(self) -> int:
        return self.count

    def _find(self, wanted: int) -> int:
        """Where the live cell of this hash is, or the empty one that ends the search."""
        hashes, rows, mask = self._hashes, self._rows, self._mask
        at = wanted & mask
        while True:
            row: int = rows[at]
            if not row or (row != DEAD and hashes[at] == wanted):
                return at
            at = (at + 1) & mask


def zeros(count: int) -> array[int]:
    """A column of u32."""
    return array("I", bytes(4 * count))
