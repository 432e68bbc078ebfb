"""What each client has at each pod of a node, in memory that all workers of the node share.

Workers share nothing else, and a limit must hold over all of them: by a share for each, clients would be refused long
before the limit, as their connections do not fall evenly. So one file in the run directory has a row for each client at
a pod that has limits. Whoever admits holds its lock (one system call, some microseconds) from the count to the note,
so that two workers never both take the last place (`file_locks`: of a worker that dies they are free again). Each
worker writes its connections into a column of its own, which is a lock too: a column that nobody holds is a dead
worker's, and counts for nothing from the moment on that somebody would be refused for it.

A connection that goes on in another worker stays counted: who gives it parks it in its column, who takes it takes it
from there.

Three figures, each exact whatever the moment: of connections the sum of the columns; of new ones how many were let in
in the last 33/32 of a second, by ticks of 1/32; of bytes a bucket of 1/16 of a second's, into which 15/16 flow in each
second. So in no second of whatever beginning there is more than the limit, and at least 15/16 of it can be had.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from pathlib import Path

from agent.net.file_locks import FileLocks

NAME = "limits.2"
"""With the number of the format: a build of another one has a file of its own."""
SETS, WAYS, COLUMNS = 256, 16, 128
TICKS_PER_S, TICKS = 32, 33
TICK_BITS = 24
_ROW_BYTES = 1536
_SET_BYTES = WAYS * _ROW_BYTES  # whole pages
_BYTES = SETS * _SET_BYTES
_WORDS, _CELLS = _ROW_BYTES // 8, _ROW_BYTES // 4
# Words of a row: the client (two), when the bucket is full again, the ticks. Then cells of half a word.
_KEY, _FULL_AT, _TICK = 0, 2, 3
_OWN = (_TICK + TICKS) * 2
_PARKED = _OWN + COLUMNS
_KEY_WORDS = struct.Struct("=QQ")
_TABLE, _FIRST_COLUMN = 0, 1
"""Which bytes of the file are the locks: of the table, and of the first of its columns."""
MOST_AT_ONCE_BYTES = 1 << 14

TOO_MANY, TOO_FAST, NO_ROOM, STUCK = -1, -2, -3, -4
"""In place of a row: why somebody is not admitted."""


class LimitTable:
    """One worker's view; times are monotonic seconds, which all processes of a machine share."""

    def __init__(self, fd: int, path: Path | None = None) -> None:
        """`fd` is this object's. Raises OSError."""
        self._fd = fd
        self._path = path
        self._backed: set[int] = set()
        self._owed: dict[int, tuple[int, int, tuple[int, int]]] = {}
        """Of a row: nanoseconds that were not charged to its bucket, when the last of them were due, its client."""
        self._locks = FileLocks(fd)
        try:
            if os.fstat(fd).st_size < _BYTES:
                os.ftruncate(fd, _BYTES)
            self._memory = mmap.mmap(fd, _BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(fd)
            raise
        self._words = memoryview(self._memory).cast("Q")
        self._cells = memoryview(self._memory).cast("I")
        self._column = self._claim()

    @classmethod
    def opened(cls, path: Path | None) -> LimitTable:
        """The one of this path; without one, of nobody else. Raises OSError."""
        if path is None:
            return cls(os.memfd_create("ztun-limits", os.MFD_CLOEXEC))
        return cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), path)

    @property
    def is_stuck(self) -> bool:
        """Whether another worker stood still with the lock when it was last tried."""
        return self._locks.is_stuck

    @property
    def is_current(self) -> bool:
        """Whether others still find this one: the run directory may have been removed."""
        if self._path is None:
            return True
        try:
            there, ours = os.stat(self._path), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """Whatever this worker has there counts no longer."""
        self._words.release()
        self._cells.release()
        self._memory.close()
        os.close(self._fd)

    # -- connections

    def enter(self, key: bytes, most: int | None, per_second: int | None, now_s: float) -> int:
        """Admit one connection of `key` (16 bytes) beside at most `most` - 1 others; answers its row, or why not."""
        if not self._lock():
            return STUCK
        try:
            row = self._row(key, now_s)
            if row < 0:
                return row
            if most is not None and self._count(row) >= most:
                self._bury(row)
                if self._count(row) >= most:
                    return TOO_MANY
            if per_second is not None:
                tick = int(now_s * TICKS_PER_S)
                if self._recent(row, tick) >= per_second:
                    return TOO_FAST
                self._note(row, tick)
            self._cells[row * _CELLS + _OWN + self._column] += 1
            return row
        finally:
            self._unlock()

    def resume(self, key: bytes, now_s: float, *, is_parked: bool = False) -> int:
        """One that is open already, whether that is too many or not. `is_parked`: by another worker."""
        if not self._lock():
            return STUCK
        try:
            row = self._row(key, now_s)
            if row >= 0:
                if is_parked:
                    self._take_parked(row)
                self._cells[row * _CELLS + _OWN + self._column] += 1
            return row
        finally:
            self._unlock()

    def _take_parked(self, row: int) -> None:
        """Of whom does not matter: each is taken once."""
        first = row * _CELLS + _PARKED
        for cell in range(first, first + COLUMNS):
            if self._cells[cell]:
                self._cells[cell] -= 1
                return

    def leave(self, row: int) -> None:
        """One connection less. Without the lock: nobody else writes this cell."""
        self._cells[row * _CELLS + _OWN + self._column] -= 1

    def park(self, row: int) -> None:
        """One goes on in another worker; until that has it, or this process is gone, it counts here."""
        if self._lock():
            try:
                self._cells[row * _CELLS + _OWN + self._column] -= 1
                self._cells[row * _CELLS + _PARKED + self._column] += 1
            finally:
                self._unlock()
        # Else it stays counted as it is, until this process is gone.

    def count(self, key: bytes) -> int:
        """How many connections there are."""
        row = self._find(key)
        return 0 if row is None else self._count(row)

    # -- bytes

    def draw(self, row: int, wanted: int, rate: int, now_s: float) -> int:
        """So many of the bytes that are `wanted` may pass now; 0: none, or too few to be worth it."""
        if not self._lock():
            return 0
        try:
            left = self._left(row, rate, now_s)
            if left < min(wanted, least_bytes(rate)):
                return 0
            granted = min(wanted, left)
            self._charge(row, granted, rate, now_s)
            return granted
        finally:
            self._unlock()

    def charge(self, row: int, size: int, rate: int, now_s: float) -> None:
        """So many have passed unasked: who comes next waits for them as well."""
        if self._lock():
            try:
                self._charge(row, size, rate, now_s)
            finally:
                self._unlock()
        else:
            owed_ns = self._owed[row][0] if row in self._owed else 0
            self._owed[row] = owed_ns + _cost_ns(size, rate), int(now_s * 1e9), self._client(row)

    def settle(self) -> None:
        """Charge what could not be while the lock was not to be had; whoever has it next does so as well."""
        if self._owed and self._lock():
            self._unlock()

    def _pay(self) -> None:
        for row, (cost_ns, due_ns, client) in self._owed.items():
            if self._client(row) == client:  # else it is gone, and its bucket was full
                at = row * _WORDS + _FULL_AT
                self._words[at] = max(self._words[at], due_ns) + cost_ns
        self._owed.clear()

    def _client(self, row: int) -> tuple[int, int]:
        return self._words[row * _WORDS], self._words[row * _WORDS + 1]

    def give_back(self, row: int, size: int, rate: int) -> None:
        """So many of those that were drawn did not pass."""
        if self._lock():
            try:
                at = row * _WORDS + _FULL_AT
                self._words[at] -= min(self._words[at], size * 16 * 10**9 // (15 * rate))
            finally:
                self._unlock()
        # Else it is as if they had passed: a sixteenth of a second's at most. Later the bucket may have been full
        # meanwhile, and would let pass more than it holds.

    def ready_in_s(self, row: int, rate: int, now_s: float) -> float:
        """When a drawing is worth it."""
        missing = least_bytes(rate) - self._left(row, rate, now_s)
        return max(0, missing) * 16 / (15 * rate)

    def _left(self, row: int, rate: int, now_s: float) -> int:
        ahead_ns = max(0, self._words[row * _WORDS + _FULL_AT] - int(now_s * 1e9))
        # Rounded against who asks.
        return int(rate // 16 + -(ahead_ns * 15 * rate // (16 * 10**9) + 1) if ahead_ns else rate // 16)

    def _charge(self, row: int, size: int, rate: int, now_s: float) -> None:
        at = row * _WORDS + _FULL_AT
        self._words[at] = max(self._words[at], int(now_s * 1e9)) + _cost_ns(size, rate)

    # -- new connections

    def _recent(self, row: int, tick: int) -> int:
        first = row * _WORDS + _TICK
        count = 0
        for word in self._words[first : first + TICKS]:
            if tick - TICKS < word >> TICK_BITS <= tick:
                count += word & (1 << TICK_BITS) - 1
        return count

    def _note(self, row: int, tick: int) -> None:
        at = row * _WORDS + _TICK + tick % TICKS
        word = self._words[at]
        self._words[at] = (word if word >> TICK_BITS == tick else tick << TICK_BITS) + 1

    # -- rows

    def _find(self, key: bytes) -> int | None:
        client = _KEY_WORDS.unpack(key)
        for rows in self._places(key):
            self._back(rows[0] // WAYS)
            for row in rows:
                if self._client(row) == client:
                    return row
        return None

    @staticmethod
    def _places(key: bytes) -> list[range]:
        """Where a client may have its row: one of two sets. Put into the emptier, they fill up nearly evenly."""
        return [
            range(n * WAYS, (n + 1) * WAYS) for n in sorted({half % SETS for half in _KEY_WORDS.unpack(key)})
        ]

    def _row(self, key: bytes, now_s: float) -> int:
        """The row of a client, a new one where it has none; NO_ROOM."""
        try:
            found = self._find(key)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            return NO_ROOM
        if found is not None:
            return found
        places = self._places(key)
        for is_buried in (False, True):
            if is_buried:
                for rows in places:
                    for row in rows:
                        self._bury(row)
            free = max(([row for row in rows if self._is_idle(row, now_s)] for rows in places), key=len)
            if free:
                row = free[0]
                at = row * _WORDS
                for word in range(at + _FULL_AT, at + _OWN // 2):
                    self._words[word] = 0
                self._words[at], self._words[at + 1] = _KEY_WORDS.unpack(key)
                return row
        return NO_ROOM

    def _is_idle(self, row: int, now_s: float) -> bool:
        """Whether it says nothing that anybody has to know."""
        at = row * _WORDS
        if not self._words[at] and not self._words[at + 1]:
            return True
        is_full = self._words[at + _FULL_AT] <= int(now_s * 1e9)
        return is_full and not self._count(row) and not self._recent(row, int(now_s * TICKS_PER_S))

    def _back(self, number: int) -> None:
        """Have memory behind a set of rows before it is touched: in a full file system that would be SIGBUS."""
        if number not in self._backed:
            os.posix_fallocate(self._fd, number * _SET_BYTES, _SET_BYTES)
            self._backed.add(number)

    def _count(self, row: int) -> int:
        first = row * _CELLS + _OWN
        return sum(self._cells[first : first + 2 * COLUMNS].tolist())

    # -- columns

    def _bury(self, row: int) -> None:
        """What dead workers have there counts for nothing."""
        first = row * _CELLS + _OWN
        for column in range(COLUMNS):
            own, parked = first + column, first + COLUMNS + column
            is_others = column != self._column and (self._cells[own] or self._cells[parked])
            if is_others and not self._locks.is_held(_FIRST_COLUMN + column):
                self._cells[own] = self._cells[parked] = 0

    def _claim(self) -> int:
        """A column that nobody has, without what a dead worker has left there."""
        for column in range(COLUMNS):
            if self._locks.take(_FIRST_COLUMN + column):
                for row in self._touched_rows():
                    at = row * _CELLS + _OWN + column
                    if self._cells[at] or self._cells[at + COLUMNS]:
                        self._cells[at] = self._cells[at + COLUMNS] = 0
                return column
        raise OSError(errno.EUSERS, f"more than {COLUMNS} workers count there")

    def _touched_rows(self) -> list[int]:
        """Those that may say something: what was never written takes no memory, and reading it would."""
        rows: list[int] = []
        at = 0
        while True:
            try:
                begin = os.lseek(self._fd, at, os.SEEK_DATA)
                at = os.lseek(self._fd, begin, os.SEEK_HOLE)
            except OSError:  # ENXIO: nothing more
                break
            rows += range(begin // _ROW_BYTES, min(at, _BYTES) // _ROW_BYTES)
        return rows

    # -- the lock

    def _lock(self) -> bool:
        """What is owed is paid first by whoever has it."""
        is_ours = self._locks.take_soon(_TABLE)
        if is_ours and self._owed:
            self._pay()
        return is_ours

    def _unlock(self) -> None:
        self._locks.let_go(_TABLE)


def _cost_ns(size: int, rate: int) -> int:
    """Of a bucket, until so many bytes have flown into it again."""
    return -(-size * 16 * 10**9 // (15 * rate))


def least_bytes(rate: int) -> int:
    """Fewer are not worth a system call: what is drawn at once, but for who wants no more."""
    return max(1, min(MOST_AT_ONCE_BYTES, rate // 32))
