"""What one loop holds for applications and peers that do not read, and what happens when that is too much.

Windows bound what one tunnel leaves here; they do not bound how many there are. So all of it is counted, and beyond
`limit_bytes` connections are reset, those first that have not been read from for longest in the group that holds most:
an HBONE connection, or an address that does not read plain ones. Whoever has many readers that stopped pays for it, not
the one paused reader of somebody else. Only what a socket does not take comes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Protocol

from agent.model.outcome import Outcome
from agent.net.allocator import give_back_free_memory

LIMIT_BYTES = 1 << 28
MUCH_BYTES = 1 << 25
CALM_S = 5.0
"""How long after much was let go of its memory is given back."""


class Holder(Protocol):
    """A relay, or a TLS connection, with a backlog."""

    @property
    def group(self) -> Hashable:
        """Whom its backlog is put down to."""

    def abort(self, outcome: Outcome, detail: str) -> None:
        """End it and let go of the backlog, before this returns."""


class Backlogs:
    """One per loop; `soon` and `later` are the loop's. `limit_bytes` may be set at any time."""

    def __init__(
        self,
        soon: Callable[[Callable[[], object]], None],
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self.limit_bytes = LIMIT_BYTES
        self.total_bytes = 0
        self.cut = 0
        """How many connections were reset for it."""
        self._soon = soon
        self._later = later
        self._peak_bytes = 0
        """The most that was held since memory was last given back."""
        # Those that were not read from for longest first.
        self._held: dict[Holder, int] = {}

    def has_room(self) -> bool:
        """Less than half of the limit is used: windows may grow."""
        return self.total_bytes < self.limit_bytes // 2

    def of(self, group: Hashable) -> list[Holder]:
        """Who holds something of a group."""
        return [holder for holder in self._held if holder.group is group]

    def hold(self, holder: Holder, size: int) -> None:
        """`size` bytes more have to wait for the application of `holder`."""
        self.total_bytes += size
        if self.total_bytes > self._peak_bytes:
            self._peak_bytes = self.total_bytes
        self._held[holder] = self._held.get(holder, 0) + size
        if self.total_bytes > self.limit_bytes:
            # Not now: the relay is in the middle of taking these bytes.
            self._soon(self._shed)

    def release(self, holder: Holder, size: int) -> None:
        """The application took so many of them, or they were thrown away."""
        self.total_bytes -= size
        left = self._held.pop(holder) - size
        if left:
            self._held[holder] = left
        if self._peak_bytes >= MUCH_BYTES and self.total_bytes <= self._peak_bytes // 4:
            self._peak_bytes = self.total_bytes
            # Once for all of it, and not while many are still reading.
            self._later(CALM_S, give_back_free_memory)

    def _shed(self) -> None:
        while self.total_bytes > self.limit_bytes and self._held:
            by_group: Counter[Hashable] = Counter()
            for holder, size in self._held.items():
                by_group[holder.group] += size
            ((group, size),) = by_group.most_common(1)
            oldest = next(holder for holder in self._held if holder.group is group)
            self.cut += 1
            oldest.abort(
                Outcome.OVERLOADED,
                f"not read from for longest, while {self.total_bytes} bytes are left unread, {size} of them"
                f" {named(group)} (--unread-bytes {self.limit_bytes})",
            )


def named(group: Hashable) -> str:
    """Where the bytes of a group wait: an address is told, an HBONE connection is this one."""
    return f"for {group}" if isinstance(group, str) else "on this HBONE connection"
