"""What all connections of one client at one pod may carry together, of those that this worker has.

Other workers draw from the same row of the table. Who finds nothing there waits in line: one timer for all of them, and
each has its turn before any has its second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from agent.net.limit_table import LimitTable
from agent.net.loop import Loop, Timer
from agent.net.pacing import PacedSocket

LEAST_PAUSE_S = 0.002
"""Between two looks at the table; the bucket holds what flows into it in 67 ms."""
STUCK_PAUSE_S = 0.02
"""The same while another worker stands still with its lock."""


class Meter:
    """An allowance. `row` is its client's in the table; `rate` in bytes a second, 0: no limit any more."""

    __slots__ = ("_loop", "_table", "_timer", "_waited", "_waiting", "rate", "row", "users")

    def __init__(
        self, loop: Loop, table: LimitTable, row: int, rate: int, waited: Callable[[], object]
    ) -> None:
        """`waited` hears of each time that somebody has to wait."""
        self._loop = loop
        self._table = table
        self._waited = waited
        self._waiting: deque[PacedSocket] = deque()
        self._timer: Timer | None = None
        self.row = row
        self.rate = rate
        self.users = 0
        """Connections that it is for."""

    def draw(self, wanted: int) -> int:
        rate = self.rate
        return self._table.draw(self.row, wanted, rate, self._loop.now()) if rate else wanted

    def give_back(self, size: int) -> None:
        if self.rate:
            self._table.give_back(self.row, size, self.rate)

    def charge(self, size: int) -> None:
        if self.rate:
            self._table.charge(self.row, size, self.rate, self._loop.now())

    def wait(self, paced: PacedSocket) -> None:
        self._waiting.append(paced)
        self._waited()
        self._go_on_later()

    def forget(self, paced: PacedSocket) -> None:
        self._waiting.remove(paced)

    def be(self, table: LimitTable, row: int, rate: int) -> None:
        """Another row, or another rate: who waits does so by that."""
        is_new = (table, row, rate) != (self._table, self.row, self.rate)
        self._table, self.row, self.rate = table, row, rate
        if is_new and self._timer is not None:
            self._timer.cancel()
            self._begin_pause()

    def _begin_pause(self) -> None:
        pause_s = self._table.ready_in_s(self.row, self.rate, self._loop.now()) if self.rate else 0.0
        least_s = STUCK_PAUSE_S if self._table.is_stuck else LEAST_PAUSE_S
        self._timer = self._loop.later(max(least_s, pause_s), self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        for _ in range(len(self._waiting)):
            if self.rate and self._table.ready_in_s(self.row, self.rate, self._loop.now()):
                break
            if self._waiting:  # each may end others
                self._waiting.popleft().go_on()
            if self.rate and self._table.is_stuck:
                break  # nobody would get anything
        self._go_on_later()

    def _go_on_later(self) -> None:
        # Asked in here: behind the line that has made it None mypyc takes a timer for that, whoever has begun one.
        if self._waiting and self._timer is None:
            self._begin_pause()
