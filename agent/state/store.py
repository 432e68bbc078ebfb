"""The one mutable cell of mesh state: the current snapshot, and who wants to know when it changes.

Listeners are called in the order in which they subscribed, after the swap and before `swap` returns, so an
ACK sent afterwards means that all of them have seen the change. A listener that raises is a defect: the
error goes to the caller and the process must not go on as if its connections had been checked.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.state.apply import Batch, Changes, apply
from agent.state.snapshot import Snapshot

Listener = Callable[[Snapshot, Changes], None]


class Store:
    """Holds the current snapshot. One thread only."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = snapshot
        self._listeners: list[Listener] = []

    @property
    def current(self) -> Snapshot:
        return self._current

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def swap(self, snapshot: Snapshot, changes: Changes) -> None:
        """Make this snapshot the current one and tell everyone; nothing is told if nothing changed."""
        self._current = snapshot
        if changes:
            for listener in tuple(self._listeners):
                listener(snapshot, changes)

    def apply(self, batch: Batch) -> Changes:
        """Apply a batch to the current snapshot and swap."""
        snapshot, changes = apply(self._current, batch)
        self.swap(snapshot, changes)
        return changes
