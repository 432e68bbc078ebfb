"""The data path's event loop: one edge-triggered epoll, alone or with another loop that waits through it.

Per turn: ready descriptors (each handles at most one batch), then postponed actions, due timers, and last
the writes that piled up, once per connection. A callback that raises loses its watch and is reported; the
loop goes on. Measured against asyncio alone: three times the requests.
"""

from __future__ import annotations

import heapq
import select
from collections import deque
from collections.abc import Callable
from itertools import count

from agent.net.backlogs import Backlogs
from agent.net.buffers import Buffers

Ready = Callable[[int], None]
Action = Callable[[], object]

EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
INBOUND_EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
"""For who has nothing to send that waits: a watch for room reports at once that there is some."""
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
BROKEN = select.EPOLLERR
WRITABLE = select.EPOLLOUT
_EVENTS_PER_ROUND = 256
# Rounds before the outer loop gets its turn; more would starve timers and the control channel.
_ROUNDS_PER_TURN = 4
_TURN_S = 0.01
"""And no other round begins so long after the first one."""
_BUSY_EVENTS = 8


class Timer:
    """An action in the future; `cancel()` before it ran means it never will."""

    __slots__ = ("action", "at_s")

    def __init__(self, at_s: float, action: Action) -> None:
        self.at_s = at_s
        self.action: Action | None = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    """`clock` is monotonic seconds; `on_error(exception, fd or None)` hears of callbacks that raised."""

    def __init__(
        self, clock: Callable[[], float], on_error: Callable[[BaseException, int | None], None]
    ) -> None:
        self.now = clock
        self._on_error = on_error
        self._epoll = select.epoll()
        self._watchers: dict[int, Ready] = {}
        self._crashes: dict[int, Callable[[BaseException], None]] = {}
        self._soon: deque[Action] = deque()
        self._ending: list[Action] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._outer_fd: int | None = None
        self._outer_is_ready = False
        self._left: set[int] = set()
        """Descriptors left in this round: what it still has of them is about sockets that are closed."""
        self._passed_on = -1
        self.buffers = Buffers()
        self.inner_buffers = Buffers()
        """For TLS within tunnels: what it has sealed is sealed once more before it is sent."""
        self.backlogs = Backlogs(self.soon, self.later)

    # -- what callers ask for

    def watch(
        self,
        fd: int,
        on_ready: Ready,
        on_crash: Callable[[BaseException], None] | None = None,
        mask: int = EDGES,
    ) -> None:
        """Call `on_ready(mask)` at every edge. `on_crash` closes what belongs to `fd` if that raises."""
        if fd in self._watchers:
            if fd != self._passed_on or mask != EDGES:
                self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._watchers[fd] = on_ready
        if on_crash is not None:
            self._crashes[fd] = on_crash
        else:
            self._crashes.pop(fd, None)

    def is_watched(self, fd: int) -> bool:
        return fd in self._watchers

    def forget(self, fd: int) -> None:
        """Stop watching; call it before the descriptor is closed. Unknown descriptors are ignored."""
        if fd in self._watchers:
            self.leave(fd)
            try:
                self._epoll.unregister(fd)
            except OSError:  # closed already: the kernel forgot it by itself
                pass

    def leave(self, fd: int) -> None:
        """The same for a descriptor that is closed next: the kernel forgets it by itself then."""
        self._left.add(fd)
        self._watchers.pop(fd, None)
        self._crashes.pop(fd, None)

    def pass_on(self, fd: int, mask: int, give: Action) -> None:
        """`give` hands a descriptor that is watched for EDGES to another, who may watch it from within.

        For the same edges that costs nothing then, and of this one (`mask`) they are told as well: what was to be read
        already is announced only once.
        """
        self._passed_on = fd
        try:
            give()
        finally:
            self._passed_on = -1
        on_ready = self._watchers.get(fd) if mask & READABLE else None
        if on_ready is not None:
            on_ready(mask)

    def soon(self, action: Action) -> None:
        """Run once, after the descriptors that are ready now had their batch."""
        self._soon.append(action)

    def flush_at_end(self, action: Action) -> None:
        """Run at the end of this turn. For writers: call it once per turn and connection."""
        self._ending.append(action)

    def later(self, delay_s: float, action: Action) -> Timer:
        timer = Timer(self.now() + delay_s, action)
        heapq.heappush(self._timers, (timer.at_s, next(self._order), timer))
        return timer

    # -- running

    def close(self) -> None:
        self.detach()
        self._watchers.clear()
        self._crashes.clear()
        self._soon.clear()
        self._ending.clear()
        self._timers.clear()
        self._epoll.close()

    def turn(self, timeout_s: float | None = 0.0) -> None:
        """Wait up to `timeout_s` (None: for ever) for something to do, and do it."""
        self._rounds(self._patience(timeout_s))

    def _patience(self, timeout_s: float | None) -> float:
        if self._soon or self._ending:
            return 0.0
        timers = self._timers
        # Most are cancelled long before their time, and nobody is to be woken for those.
        while timers and timers[0][2].action is None:
            heapq.heappop(timers)
        if timers:
            due = max(0.0, timers[0][0] - self.now())
            return due if timeout_s is None else min(due, timeout_s)
        return -1.0 if timeout_s is None else timeout_s

    def _rounds(self, timeout_s: float) -> None:
        end_s = 0.0
        for _ in range(_ROUNDS_PER_TURN):
            ready = self._epoll.poll(timeout_s, _EVENTS_PER_ROUND)
            timeout_s = 0.0
            find, left = self._watchers.get, self._left
            left.clear()
            for fd, mask in ready:
                on_ready = find(fd)
                # A descriptor closed and opened again within this round would get the old one's event.
                if on_ready is not None and fd not in left:
                    try:
                        on_ready(mask)
                    except Exception as error:  # noqa: BLE001 - reported, and its owner is closed
                        self._crashed(fd, error)
            if self._soon:
                self._run_soon()
            if self._timers and self._timers[0][0] <= self.now():
                self._run_timers()
            if self._ending:
                self._run_ending()
            # Few events: the next ones are for the outer loop to wait for, and asking again is wasted.
            if len(ready) < _BUSY_EVENTS and not self._soon:
                return
            if not end_s:
                end_s = self.now() + _TURN_S
            elif self.now() >= end_s:
                return

    def _crashed(self, fd: int, error: BaseException) -> None:
        on_crash = self._crashes.get(fd)
        self.forget(fd)
        self._on_error(error, fd)
        if on_crash is not None:
            self._run(lambda: on_crash(error))

    def _run(self, action: Action) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - reported; the loop must go on
            self._on_error(error, None)

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):  # those added meanwhile wait for the next round
            self._run(self._soon.popleft())

    def _run_ending(self) -> None:
        while self._ending:
            actions, self._ending = self._ending, []
            for action in actions:
                self._run(action)

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.action is not None:
                action, timer.action = timer.action, None
                self._run(action)

    # -- inside of another loop

    def attach(self, outer_fd: int) -> None:
        """Have another loop wait through this one: its turn comes when this descriptor of its is readable."""
        self._outer_fd = outer_fd
        # Level-triggered: as long as the other has not asked for its events, they end every wait.
        self._epoll.register(outer_fd, select.EPOLLIN)
        self._watchers[outer_fd] = self._on_outer

    def detach(self) -> None:
        """Let the outer loop wait by itself from now on."""
        if self._outer_fd is not None:
            self.forget(self._outer_fd)
            self._outer_fd = None

    @property
    def is_attached(self) -> bool:
        return self._outer_fd is not None

    def call_outer(self) -> None:
        """The outer loop has something to do: it gets its turn after this one."""
        self._outer_is_ready = True

    def serve(self, timeout_s: float | None) -> None:
        """Turn until `timeout_s` has passed or the outer loop has something to do."""
        self._outer_is_ready = False
        if timeout_s is None:
            while not self._outer_is_ready:
                self.turn(None)
            return
        left_s, end_s = timeout_s, self.now() + timeout_s
        while True:
            self.turn(left_s)
            if self._outer_is_ready:
                return
            left_s = end_s - self.now()
            if left_s <= 0:
                return

    def _on_outer(self, mask: int) -> None:
        self._outer_is_ready = True
